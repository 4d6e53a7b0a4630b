"""Suites of Great Expectations on tables in memory: nothing is stored, drawn or sent."""

import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from threading import Lock
from typing import TYPE_CHECKING, Any

from expectations.data.suite import import_library
from expectations.data.tables import column, count
from retune.recipe.flaws import FLAWS

if TYPE_CHECKING:
    import polars as pl
    from great_expectations import ExpectationSuite
    from great_expectations.core import ExpectationSuiteValidationResult
    from great_expectations.core.batch_definition import BatchDefinition
    from great_expectations.datasource.fluent.interfaces import Batch
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

# Of a table with more, only some columns are judged at a time: in memory as pandas has them.
CELLS = 50_000_000
ROWS_NAMED = 20  # by GX, of those that do not meet an expectation
_CONFIGURED = Lock()  # one thread at a time changes how GX looks at its expectations


def judge(
    tables: "dict[str, pl.LazyFrame]", suites: "dict[str, ExpectationSuite]"
) -> "list[ExpectationSuiteValidationResult]":
    """Validate each table by the suite of its name; nothing is written."""
    with _CONFIGURED, _configured_once():
        return [_validated(name, tables[name], suite) for name, suite in suites.items()]


def _validated(
    name: str, table: "pl.LazyFrame", suite: "ExpectationSuite"
) -> "ExpectationSuiteValidationResult":
    from great_expectations.core import RunIdentifier

    of_columns = [_of_columns(name, lines, suite) for lines in _frames(table, suite)]
    result = _joined(of_columns, suite)
    _name_rows(result, table)
    # As a validation definition has it, which would store the suite and its results as well.
    run = RunIdentifier(run_time=datetime.now(UTC))
    result.meta |= {"run_id": run, "validation_time": run.run_time}
    return result


def _frames(table: "pl.LazyFrame", suite: "ExpectationSuite") -> "Iterator[pl.DataFrame]":
    """Yield the table with all columns, or with those that the suite is on, CELLS cells at a time."""
    names = [name for name in table.collect_schema().names() if name != "row"]
    most = max(1, CELLS // max(1, count(table)))
    if len(names) <= most:
        yield table.collect(engine="streaming")
        return
    judged = {_column(expectation) for expectation in suite.expectations}
    names = [name for name in names if name in judged]
    for start in range(0, len(names), most):
        yield table.select(names[start : start + most]).collect(engine="streaming")
        gc.collect()  # what GX computed of these columns refers to itself


def _of_columns(
    name: str, lines: "pl.DataFrame", suite: "ExpectationSuite"
) -> "ExpectationSuiteValidationResult":
    """Return the results of the expectations on the columns of a frame."""
    import great_expectations as gx

    batch = _definition(name).get_batch({"dataframe": lines.to_pandas()})
    on_them = [one for one in suite.expectations if _column(one) in lines.columns]
    part = gx.ExpectationSuite(name=suite.name, expectations=on_them)
    result = batch.validate(part, result_format="BOOLEAN_ONLY")
    _add_numbers(result, batch, part, lines)
    return result


def _joined(
    parts: "list[ExpectationSuiteValidationResult]", suite: "ExpectationSuite"
) -> "ExpectationSuiteValidationResult":
    """Return the results of parts of a suite as those of all of it, in its order."""
    from great_expectations.validator.validator import calc_validation_statistics

    first, *others = parts
    of_all = {_title(entry.expectation_config): entry for one in parts for entry in one.results}
    first.results = [of_all[_title(expectation)] for expectation in suite.expectations]
    if others:
        first.success = all(entry.success for entry in first.results)
        statistics = calc_validation_statistics(first.results)
        first.statistics = {name: getattr(statistics, name) for name in first.statistics}
    return first


def _column(expectation: Any) -> str:
    return str(expectation.configuration.kwargs["column"])


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


def _name_rows(result: "ExpectationSuiteValidationResult", table: "pl.LazyFrame") -> None:
    """Say of which rows the few places are that GX names. Asked for them by a column, it looks each
    unexpected row up by itself, whatever few it then names: minutes where many rows are flawed."""
    named = "partial_unexpected_index_list"
    told = [entry.result for entry in result.results if entry.result.get(named)]
    if told and "row" in table.collect_schema():
        rows = column(table, "row")
        for numbers in told:
            numbers[named] = [{"row": rows[place]} for place in numbers[named]]


def _definition(name: str) -> "BatchDefinition":
    """Return what takes a whole table, in a context of its own that keeps all in memory: with the table
    it keeps what was computed of each column, for as long as it is there.

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
    return data.add_dataframe_asset(name).add_batch_definition_whole_dataframe("all")


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
