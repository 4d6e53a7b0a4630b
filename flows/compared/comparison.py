"""The comparison of two runs, put together from what each left."""

from typing import TYPE_CHECKING

from flows.compared import measured, settings
from flows.compared.changed_rows import ChangedRows, changed_rows
from flows.compared.data import data
from flows.compared.evidence import RunEvidence, evidence
from flows.compared.examples import Examples, examples, shown
from flows.compared.neighbours import near
from flows.compared.records import Comparison, DataChange, NearRow
from flows.compared.rows import TRAIN

if TYPE_CHECKING:
    import polars as pl


def compare(one: str, other: str) -> Comparison:
    """Return what differs between two runs, by their ids in MLflow, in whichever order.

    What a run did not keep, or what is not on this machine, is told in `missing`.
    """
    both = sorted((evidence(one), evidence(other)), key=lambda of: of.run.info.start_time)
    older, newer = both
    missing: list[str] = []
    rows = _rows(older, newer, missing)
    asked = _examples(older, newer, missing)
    differences = _differences(older, newer)
    margins = {one.metric: one.margin for one in differences if not one.is_slice}
    lost, won = (asked.lost(margins), asked.won(margins)) if asked else (None, None)
    return Comparison(
        older=older.described(),
        newer=newer.described(),
        recipe=settings.recipe(older, newer),
        data=_data(older, newer, rows),
        environment=settings.environment(older, newer),
        differences=differences,
        metrics=measured.metrics(older, newer),
        tallies=asked.tallies if asked else [],
        lost=[] if lost is None else shown(lost, _near(lost, newer, rows, missing)),
        won=[] if won is None else shown(won),
        curves=measured.curves(older, newer),
        files=measured.files(older, newer),
        missing=missing,
    )


def _rows(older: RunEvidence, newer: RunEvidence, missing: list[str]) -> ChangedRows | None:
    if older.rows is not None and newer.rows is not None:
        return changed_rows(older.rows, newer.rows)
    missing.append(f"rows: {_without('rows/accepted.parquet', older.rows, newer.rows)}")
    return None


def _data(older: RunEvidence, newer: RunEvidence, rows: ChangedRows | None) -> DataChange | None:
    if rows is None or older.rows is None or newer.rows is None:
        return None
    return data(older.rows, newer.rows, rows)


def _examples(older: RunEvidence, newer: RunEvidence, missing: list[str]) -> Examples | None:
    if older.outcomes is None or newer.outcomes is None:
        kept = _without("evaluate/outcomes.parquet", older.outcomes, newer.outcomes)
        missing.append(f"examples and intervals: {kept}")
        return None
    asked = examples(older.outcomes, newer.outcomes)
    if asked.lines.is_empty():
        missing.append("examples and intervals: the runs were asked no example in common")
    return asked


def _without(name: str, older: object, newer: object) -> str:
    runs = [run for run, kept in (("older", older), ("newer", newer)) if kept is None]
    return f"the {' and the '.join(runs)} run kept no {name}: it ended before, or is of an older retune"


def _differences(older: RunEvidence, newer: RunEvidence) -> list[measured.PairedDifference]:
    if older.outcomes is None or newer.outcomes is None:
        return []
    rule = newer.recipe.promotion if newer.recipe else None
    return list(measured.differences(older.outcomes, newer.outcomes, rule))


def _near(
    lost: "pl.DataFrame", newer: RunEvidence, rows: ChangedRows | None, missing: list[str]
) -> dict[str, list[NearRow]]:
    """Return the new training rows that are like the lost prompts: added ones, and edited ones."""
    import polars as pl

    if rows is None or lost.is_empty() or newer.rows is None:
        return {}
    columns = ["row", "source"]
    new = pl.concat([rows.added.select(columns), rows.edited.select(columns)])
    trained = newer.rows.filter(pl.col("split") == TRAIN)["row"]
    new = new.filter(pl.col("row").is_in(trained.implode()))
    if new.is_empty():
        return {}
    if newer.texts is None:
        missing.append(
            "new rows like the lost prompts: the texts of the newer run's rows are not on this machine "
            "(its work folder is gone, or on another one)"
        )
        return {}
    return near(lost.select("example", "prompt"), newer.texts, new)
