"""The Great Expectations suite of the data gate, built from a recipe's thresholds.

One expectation per flaw over the feature table (a line per row), and one per dataset expectation
over the measures (a single line). Severities: `critical` blocks the run, `warning` is shown and
logged, `info` is logged.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from threading import Lock
from typing import TYPE_CHECKING, Any

from retune.recipe import Validation
from retune.recipe.flaws import DATASET_EXPECTATIONS, FLAWS, SCORE_FLAWS
from retune.workspace import digest

if TYPE_CHECKING:
    import polars as pl
    from great_expectations import ExpectationSuite
    from great_expectations.core import ExpectationSuiteValidationResult
    from great_expectations.core.batch_definition import BatchDefinition
    from great_expectations.datasource.fluent.interfaces import Batch
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

ROWS, DATASET = "rows", "dataset"  # the two tables, and the suites over them
OF_PARTS = "max_part_quarantined_share"
ROWS_NAMED = 20  # by GX, of those that do not meet an expectation
_CONFIGURED = Lock()  # one thread at a time changes how GX looks at its expectations
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


def judge(
    tables: "dict[str, pl.DataFrame]", suites: "dict[str, ExpectationSuite]"
) -> "list[ExpectationSuiteValidationResult]":
    """Validate each table by the suite of its name; nothing is written."""
    with _CONFIGURED, _configured_once():
        return [_validated(name, tables[name], suite) for name, suite in suites.items()]


def _validated(
    name: str, table: "pl.DataFrame", suite: "ExpectationSuite"
) -> "ExpectationSuiteValidationResult":
    from great_expectations.core import RunIdentifier

    batch = _definitions()[name].get_batch({"dataframe": table.to_pandas()})
    result = batch.validate(suite, result_format="BOOLEAN_ONLY")
    _add_numbers(result, batch, suite, table)
    _name_rows(result, table)
    # As a validation definition has it, which would store the suite and its results as well.
    run = RunIdentifier(run_time=datetime.now(UTC))
    result.meta |= {"run_id": run, "validation_time": run.run_time}
    return result


def _add_numbers(
    result: "ExpectationSuiteValidationResult",
    batch: "Batch",
    suite: "ExpectationSuite",
    table: "pl.DataFrame",
) -> None:
    """Add to `result` how many lines do not meet an expectation, and which; of those that every line
    meets there is no more to say, and GX takes twice as long to say it."""
    import great_expectations as gx

    told = {
        _title(entry.expectation_config)
        for entry in result.results
        if not entry.success or _has_unmet(entry.expectation_config, table)
    }
    if not told:
        return
    unmet = [expectation for expectation in suite.expectations if _title(expectation) in told]
    numbers = batch.validate(
        gx.ExpectationSuite(name=suite.name, expectations=unmet),
        result_format={
            "result_format": "SUMMARY",
            "partial_unexpected_count": ROWS_NAMED,
        },
    )
    whole = {_title(entry.expectation_config): entry for entry in numbers.results}
    result.results = [
        whole.get(_title(entry.expectation_config), entry) for entry in result.results
    ]


def _title(expectation: Any) -> str:
    """Return the words of an expectation, or of its configuration; no two have the same."""
    return str(expectation.meta["title"])


def _has_unmet(configuration: Any, table: "pl.DataFrame") -> bool:
    """Tell whether a line may not meet an expectation that the table as a whole meets."""
    column = configuration.kwargs["column"]
    return column == "sound_score" or (column in FLAWS and bool(table[column].any()))


def _name_rows(result: "ExpectationSuiteValidationResult", table: "pl.DataFrame") -> None:
    """Say of which rows the few places are that GX names. Asked for them by a column, it looks each
    unexpected row up by itself, whatever few it then names: minutes where many rows are flawed."""
    for entry in result.results:
        places = entry.result.get("partial_unexpected_index_list")
        if places and "row" in table.columns:
            named = [{"row": table["row"][place]} for place in places]
            entry.result["partial_unexpected_index_list"] = named


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


@cache
def _definitions() -> "dict[str, BatchDefinition]":
    """Return what takes a whole table, for each of the two, in a context that keeps all in memory.

    It builds no Data Docs: GX's pages load scripts and styles from nine hosts, which makes them
    blank without a network and a call home with one. `expectations.data.page` writes ours.
    """
    import_library()
    import great_expectations as gx
    from great_expectations.data_context.types import base

    base.logger.setLevel(logging.WARNING)  # it tells of temporary folders
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = base.ProgressBarsConfig(globally=False)
    data = context.data_sources.add_pandas("features")
    return {
        name: data.add_dataframe_asset(name).add_batch_definition_whole_dataframe("all")
        for name in (ROWS, DATASET)
    }


@contextmanager
def _configured_once() -> Iterator[None]:
    """Let GX build the configuration of each expectation once.

    It does so at every look at it, some 65 of them, which is a third of the time it takes on a small
    dataset. Nothing changes an expectation while it is judged.
    """
    from great_expectations.expectations.expectation import Expectation

    name = "configuration"
    original = vars(Expectation)[name]
    built: dict[int, tuple[Expectation, ExpectationConfiguration]] = {}

    def configuration(expectation: Expectation) -> "ExpectationConfiguration":
        key = id(expectation)  # taken until `built`, which holds the expectation, is gone
        if key not in built:
            built[key] = expectation, original.fget(expectation)
        return built[key][1]

    setattr(Expectation, name, property(configuration))
    try:
        yield
    finally:
        setattr(Expectation, name, original)


def _meta(name: str, words: str, setting: str, limit: float) -> dict[str, Any]:
    return {"name": name, "title": words, "setting": f"validation.{setting}", "limit": limit}
