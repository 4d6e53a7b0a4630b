"""The data gate as one plain function: measured, judged, and all of it in one folder."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from expectations.data.judgement import FILES as JUDGED
from expectations.data.judgement import NOT_ASKED, Judged, judge_table
from expectations.data.messages import Rules
from expectations.data.report import Report
from expectations.data.scores import Distribution
from retune.errors import HubUnreachable
from retune.sources import HubOffline
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

UNREACHABLE = "the Hub did not answer for the classifier"


def gate(
    rows: Path,
    rules: Rules,
    folder: Path,
    reference: Distribution | None = None,
    say: Callable[[str], None] = lambda _sentence: None,
) -> Report:
    """Screen, settle and judge a Parquet file of rows, and write all of it into `folder`.

    `reference` is the score distribution of the last accepted run. The classifier is asked nothing
    about rows that are rejected whatever it would say; stored scores are judged with all else.
    """
    judged = judge_rows(rows, rules, folder, reference, say)
    judged.write(folder)
    return judged.report


def judge_rows(
    rows: Path,
    rules: Rules,
    folder: Path,
    reference: Distribution | None = None,
    say: Callable[[str], None] = lambda _sentence: None,
    offline: bool = False,
) -> Judged:
    """Do what `gate` does but for the report's own files, which the outcome writes.

    With `offline`, what is expected of scores is not judged if the Hub, where the classifier is,
    does not answer; else that raises HubUnreachable.
    """
    table = screen(rows, rules, folder)
    if planned(table, rules.config):
        judged = judge_table(table, _examples(folder), rules.config, scored=False)
        if judged.report.failed:
            _hand_on(rows, table, rules, folder)
            return judged.without_scores(NOT_ASKED)
    try:
        settled = settle(rows, table, rules, folder, say)
    except (HubUnreachable, HubOffline) as error:
        if not offline:
            raise
        say(f"{UNREACHABLE}, so what is expected of scores is not judged ({error})")
        return _without_classifier(rows, table, rules, folder, reference)
    return judge_table(settled.table, _examples(folder), rules.config, reference, settled.agreement)


def _without_classifier(
    rows: Path,
    table: "pl.DataFrame",
    rules: Rules,
    folder: Path,
    reference: Distribution | None,
) -> Judged:
    """Judge what needs no classifier: if it was but to check a sample, the stored scores as well."""
    alone = rules.config.classifier.model_copy(update={"sample": 0})
    config = rules.config.model_copy(update={"classifier": alone})
    if planned(table, config):
        _hand_on(rows, table, rules, folder)
        judged = judge_table(table, _examples(folder), rules.config, scored=False)
        return judged.without_scores(UNREACHABLE)
    settled = settle(rows, table, rules._replace(config=config), folder)
    judged = judge_table(settled.table, _examples(folder), rules.config, reference)
    return judged.with_verdicts(
        verdict.model_copy(update={"seen": UNREACHABLE})
        if verdict.name == "min_agreement"
        else verdict
        for verdict in judged.report.verdicts
    )


def _hand_on(rows: Path, table: "pl.DataFrame", rules: Rules, folder: Path) -> None:
    """Write what `settle` writes of rows whose scores are not known."""
    write_accepted(rows, table, rules, folder)
    (folder / SCORES).write_text("null")


def _examples(folder: Path) -> "pl.DataFrame":
    import polars as pl

    return pl.read_parquet(folder / EXCERPTS)
