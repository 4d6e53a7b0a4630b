"""The Great Expectations suite of the data gate, built from a recipe's thresholds.

One expectation per flaw over the feature table (a line per row), and one per dataset expectation
over the measures (a single line). Severities: `critical` blocks the run, `warning` is shown and
logged, `info` is logged.
"""

import logging
import os
from typing import TYPE_CHECKING, Any

from retune.config import Validation
from retune.flaws import FLAWS
from retune.workspace import digest

if TYPE_CHECKING:
    import polars as pl
    from great_expectations import ExpectationSuite
    from great_expectations.core import ExpectationSuiteValidationResult
    from great_expectations.data_context import EphemeralDataContext

ROWS, DATASET = "rows", "dataset"  # the two tables, and the suites over them
ON_SCORES = {
    *("score_missing", "score_not_finite", "score_out_of_range", "score_quantiles_min"),
    *("score_mean_min", "score_mean_max", "max_below_threshold_share", "min_distinct_scores"),
    *("max_psi", "max_ks", "min_agreement"),
    "max_source_share",  # of the rows that the filter leaves
}


def suites(config: Validation, scored: bool = True) -> "dict[str, ExpectationSuite]":
    """Return the suites over both tables; an expectation's `meta` has its `name`, its `title` in
    words, its `limit` and the `setting` that holds that. Without `scored` none of them is on scores."""
    import great_expectations as gx

    every = {ROWS: _of_rows(config), DATASET: _of_dataset(config)}
    return {
        name: gx.ExpectationSuite(
            name=name,
            expectations=[e for e in of_table if scored or e.meta["name"] not in ON_SCORES],
        )
        for name, of_table in every.items()
    }


def fingerprint(config: Validation) -> str:
    """Return 16 hex digits that stand for the suites: the same expectations, limits and severities."""
    return digest(
        [
            (entry.expectation_type, entry.severity, entry.meta, entry.configuration.kwargs)
            for suite in suites(config).values()
            for entry in suite.expectations
        ]
    )


def title(flaw: str, config: Validation) -> str:
    """Return the words for a flaw, to go after "rows that have", with the settings they name."""
    settings = config.model_dump() | {"languages": " or ".join(config.languages)}
    return FLAWS[flaw].title.format(**settings)


def judge(
    tables: "dict[str, pl.DataFrame]", suites: "dict[str, ExpectationSuite]"
) -> "list[ExpectationSuiteValidationResult]":
    """Validate each table by the suite of its name; nothing is written."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")  # read when it is imported
    import great_expectations as gx

    context = _context()
    data = context.data_sources.add_pandas("features")
    results = []
    for name, suite in suites.items():
        batch = data.add_dataframe_asset(name).add_batch_definition_whole_dataframe("all")
        definition = context.validation_definitions.add(
            gx.ValidationDefinition(name=name, data=batch, suite=context.suites.add(suite))
        )
        results.append(
            definition.run(
                batch_parameters={"dataframe": tables[name].to_pandas()},
                result_format={
                    "result_format": "SUMMARY",
                    "partial_unexpected_count": 5,
                    "unexpected_index_column_names": ["row"] if "row" in tables[name] else [],
                },
            )
        )
    return results


def _of_rows(config: Validation) -> list[Any]:
    import great_expectations as gx
    from great_expectations.expectations.metadata_types import FailureSeverity

    expectations: list[Any] = []
    for flaw in FLAWS:
        if flaw == "language" and not config.languages:
            continue
        tolerance = config.tolerance(flaw)
        limit = f"at most {100 * tolerance:g}% of the rows have" if tolerance else "no row has"
        expectations.append(
            gx.expectations.ExpectColumnValuesToBeInSet(
                column=flaw,
                value_set=[False],
                mostly=1 - tolerance,
                severity=FailureSeverity(config.severity(flaw)),
                meta=_meta(flaw, f"{limit} {title(flaw, config)}", f"tolerances.{flaw}", tolerance),
            )
        )
    for quantile, score in sorted(config.score_quantiles_min.items()):
        # The quantile is at least x exactly when at most that share of scores is below x. Written
        # so, GX counts and lists the rows; its quantile expectation returns a NumPy bool that its
        # own store cannot serialise (1.24.1 with NumPy 2).
        words = f"the {quantile:.0%} quantile of the scores is at least {score:g}"
        expectations.append(
            gx.expectations.ExpectColumnValuesToBeBetween(
                column="sound_score",
                min_value=score,
                mostly=1 - quantile,
                severity=FailureSeverity(config.severity("score_quantiles_min")),
                meta=_meta("score_quantiles_min", words, "score_quantiles_min", score),
            )
        )
    return expectations


def _of_dataset(config: Validation) -> list[Any]:
    import great_expectations as gx
    from great_expectations.expectations.metadata_types import FailureSeverity

    c = config
    limits: dict[str, tuple[str, float | None, str]] = {
        "min_rows": ("min_value", c.min_rows, "at least {:,} rows remain"),
        "max_quarantined_share": (
            "max_value",
            c.max_quarantined_share,
            "at most {:.1%} of the rows go to quarantine",
        ),
        "max_source_share": (
            "max_value",
            c.max_source_share,
            "at most {:.1%} of the rows come from one source",
        ),
        "score_mean_min": ("min_value", c.score_mean_min, "the mean score is at least {:g}"),
        "score_mean_max": ("max_value", c.score_mean_max, "the mean score is at most {:g}"),
        "max_below_threshold_share": (
            "max_value",
            c.max_below_threshold_share if c.score_threshold is not None else None,
            f"at most {{:.1%}} of the scores are below {c.score_threshold}",
        ),
        "min_distinct_scores": (
            "min_value",
            c.min_distinct_scores if c.score_required else None,
            "at least {:,} different scores",
        ),
        "max_psi": (
            "max_value",
            c.drift.max_psi,
            "the scores' population stability index against the last accepted run is at most {:g}",
        ),
        "max_ks": (
            "max_value",
            c.drift.max_ks,
            "the scores' Kolmogorov-Smirnov distance from the last accepted run is at most {:g}",
        ),
        "min_agreement": (
            "min_value",
            c.classifier.min_agreement,
            f"at least {{:.1%}} of a sample score within {c.classifier.tolerance:g} of what is stored",
        ),
    }
    places = {"max_psi": "drift.", "max_ks": "drift.", "min_agreement": "classifier."}
    return [
        gx.expectations.ExpectColumnValuesToBeBetween(
            column=name,
            severity=FailureSeverity(c.severity(name)),
            meta=_meta(name, words.format(limit), places.get(name, "") + name, limit),
            min_value=limit if bound == "min_value" else None,
            max_value=limit if bound == "max_value" else None,
        )
        for name, (bound, limit, words) in limits.items()
        if limit is not None
    ]


def _context() -> "EphemeralDataContext":
    """Return a context that keeps everything in memory.

    It builds no Data Docs: GX's pages load scripts and styles from nine hosts, which makes them
    blank without a network and a call home with one. `expectations.data.page` writes ours.
    """
    import great_expectations as gx
    from great_expectations.data_context.types import base

    base.logger.setLevel(logging.WARNING)  # it tells of temporary folders
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = base.ProgressBarsConfig(globally=False)
    return context


def _meta(name: str, words: str, setting: str, limit: float) -> dict[str, Any]:
    return {"name": name, "title": words, "setting": f"validation.{setting}", "limit": limit}
