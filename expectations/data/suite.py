"""The Great Expectations suite of the data gate, built from a recipe's thresholds.

One expectation per flaw over the feature table (a line per row), and one per dataset expectation
over the measures (a single line). Severities: `critical` blocks the run, `warning` is shown and
logged, `info` is logged.
"""

import os
from typing import TYPE_CHECKING, Any

from retune.files import digest
from retune.recipe import Validation
from retune.recipe.flaws import DATASET_EXPECTATIONS, FLAWS, SCORE_FLAWS

if TYPE_CHECKING:
    from great_expectations import ExpectationSuite

ROWS, DATASET = "rows", "dataset"  # the two tables, and the suites over them
OF_PARTS = "max_part_quarantined_share"
QUANTILES = "score_quantiles_min"  # the one that is judged over the rows, once for each quantile


def import_library() -> None:
    """Import Great Expectations, which takes seconds and calls nobody."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")  # read when it is imported
    import great_expectations  # noqa: F401


def suites(
    config: Validation, scored: bool = True, mixed: bool = False
) -> "dict[str, ExpectationSuite]":
    """Return the suites over both tables; an expectation's `meta` has its `name`, its `title` in
    words, its `limit` and the `setting` that holds that. Without `scored` none of them is on
    scores, only with `mixed` one is on the parts of a mix."""
    import_library()
    import great_expectations as gx

    every = {ROWS: _of_rows(config), DATASET: _of_dataset(config)}
    return {
        name: gx.ExpectationSuite(
            name=name,
            expectations=[
                e
                for e in of_table
                if (scored or not _is_on_scores(e.meta["name"]))
                and (mixed or e.meta["name"] != OF_PARTS)
            ],
        )
        for name, of_table in every.items()
    }


def on_scores(config: Validation) -> list[Any]:
    """Return the expectations that nothing is known of before the rows have their scores."""
    every = (*_of_rows(config), *_of_dataset(config))
    return [expectation for expectation in every if _is_on_scores(expectation.meta["name"])]


def fingerprint(config: Validation, mixed: bool = False) -> str:
    """Return 16 hex digits that identify the suites: the same expectations, limits and severities."""
    return digest(
        [
            (entry.expectation_type, entry.severity, entry.meta, entry.configuration.kwargs)
            for suite in suites(config, mixed=mixed).values()
            for entry in suite.expectations
        ]
    )


def title(flaw: str, config: Validation) -> str:
    """Return the words for a flaw, to go after "rows that have", with the settings they name."""
    settings = config.model_dump() | {"languages": " or ".join(config.languages)}
    return FLAWS[flaw].title.format(**settings)


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
    name = QUANTILES
    for quantile, score in sorted(config.score_quantiles_min.items()):
        # The quantile is at least x exactly when at most that share of scores is below x. Written
        # so, GX counts and lists the rows; its quantile expectation returns a NumPy bool that its
        # own store cannot serialise (1.24.1 with NumPy 2).
        words = DATASET_EXPECTATIONS[name].title.format(quantile=quantile, limit=score)
        expectations.append(
            gx.expectations.ExpectColumnValuesToBeBetween(
                column="sound_score",
                min_value=score,
                mostly=1 - quantile,
                severity=FailureSeverity(config.severity(name)),
                meta=_meta(name, words, name, score),
            )
        )
    return expectations


def _of_dataset(config: Validation) -> list[Any]:
    import great_expectations as gx
    from great_expectations.expectations.metadata_types import FailureSeverity

    limits = {name: config.limit(name) for name in DATASET_EXPECTATIONS if name != QUANTILES}
    return [
        gx.expectations.ExpectColumnValuesToBeBetween(
            column=name,
            severity=FailureSeverity(config.severity(name)),
            meta=_meta(
                name, declared.title.format(limit=limit, config=config), declared.setting, limit
            ),
            min_value=limit if declared.bound == "min" else None,
            max_value=limit if declared.bound == "max" else None,
        )
        for name, limit in limits.items()
        if limit is not None and (declared := DATASET_EXPECTATIONS[name])
    ]


def _is_on_scores(name: str) -> bool:
    if name in FLAWS:
        return name in SCORE_FLAWS
    # Of the largest source count the rows that the filter by scores leaves.
    measure = DATASET_EXPECTATIONS[name].measure
    return measure.startswith("score") or name == "max_source_share"


def _meta(name: str, words: str, setting: str, limit: float) -> dict[str, Any]:
    return {"name": name, "title": words, "setting": f"validation.{setting}", "limit": limit}
