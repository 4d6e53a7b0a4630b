"""The data gate as one plain function: measured, judged, and all of it in one folder."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING

from expectations.data import repairs as record
from expectations.data.judgement import FILES as JUDGED
from expectations.data.judgement import judge_table
from expectations.data.messages import Rules
from expectations.data.report import Report
from expectations.data.scores import Distribution
from retune.ignored import Ignored
from tasks.validate.classifier import planned
from tasks.validate.repairs.repair import repair
from tasks.validate.repairs.trial import trials
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
    """Repair, screen, settle and judge a Parquet file of rows, and write all of it into `folder`.

    `reference` is the score distribution of the last accepted run, `ignore` are the names that the
    recipe acknowledges as not used (`dataset.ignore`). The classifier is asked nothing
    about rows that are rejected whatever it would say; stored scores are judged with all else.
    """
    ignored = Ignored.beside(rows).without(ignore)
    rows, applied = repair(rows, rules.config.repairs, folder)
    table, judged = screen(rows, rules, folder), None
    repairs = trials(rows, table, rules, applied)
    record.write(repairs, folder)
    if planned(table, rules.config):
        judged = judge_table(
            table,
            _examples(folder),
            rules.config,
            scored=False,
            repairs=repairs,
            ignored=ignored,
        )
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
            settled.asked,
            repairs=repairs,
            ignored=ignored,
        )
    judged.write(folder)
    return judged.report


def _examples(folder: Path) -> "pl.DataFrame":
    import polars as pl

    return pl.read_parquet(folder / EXCERPTS)
