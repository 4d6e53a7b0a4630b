"""Suites of Great Expectations on tables in memory: nothing is stored, drawn or sent."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from threading import Lock
from typing import TYPE_CHECKING, Any

from expectations.data.suite import DATASET, ROWS, import_library
from retune.recipe.flaws import FLAWS

if TYPE_CHECKING:
    import polars as pl
    from great_expectations import ExpectationSuite
    from great_expectations.core import ExpectationSuiteValidationResult
    from great_expectations.core.batch_definition import BatchDefinition
    from great_expectations.datasource.fluent.interfaces import Batch
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

ROWS_NAMED = 20  # by GX, of those that do not meet an expectation
_CONFIGURED = Lock()  # one thread at a time changes how GX looks at its expectations


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
