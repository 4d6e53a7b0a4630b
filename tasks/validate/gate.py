"""The data gate as one plain function: measured, judged, and all of it in one folder."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING

from expectations.data.judgement import FILES as JUDGED
from expectations.data.judgement import judge_table
from expectations.data.messages import Rules
from expectations.data.report import Report
from expectations.data.scores import Distribution
from retune.ignored import Ignored
from tasks.validate.classifier import planned
from tasks.validate.screening import (
    EXCERPTS,
    QUARANTINE,
    SCORES,
    screen,
    settle,
    write_accepted,
)

if TYPE_CHECKING:
    import polars as pl

FILES = (*JUDGED, QUARANTINE, SCORES)  # of what it leaves: small, without secrets, may be shared


def gate(
    rows: Path,
    rules: Rules,
    folder: Path,
    reference: Distribution | None = None,
    say: Callable[[str], None] = lambda _sentence: None,
    ignore: Collection[str] = (),
) -> Report:
    """Screen, settle and judge a Parquet file of rows, and write all of it into `folder`.

    `reference` is the score distribution of the last accepted run, `ignore` are the names that the
    recipe acknowledges as not used (`dataset.ignore`). The classifier is asked nothing
    about rows that are rejected whatever it would say; stored scores are judged with all else.
    """
    table, judged = screen(rows, rules, folder), None
    ignored = Ignored.beside(rows).without(ignore)
    if planned(table, rules.config):
        judged = judge_table(table, _examples(folder), rules.config, scored=False, ignored=ignored)
    if judged and judged.report.failed:
        write_accepted(rows, table, rules, folder)
        (folder / SCORES).write_text("null")
    else:
        settled = settle(rows, table, rules, folder, say)
        judged = judge_table(
            settled.table,
            _examples(folder),
            rules.config,
            reference,
            settled.agreement,
            ignored=ignored,
        )
    judged.write(folder)
    return judged.report


def _examples(folder: Path) -> "pl.DataFrame":
    import polars as pl

    return pl.read_parquet(folder / EXCERPTS)
