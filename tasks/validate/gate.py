"""The data gate as one plain function: measured, judged, and all of it in one folder."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from expectations.data import repairs as record
from expectations.data.evidence import NO_REFERENCE, Evidence, Reference
from expectations.data.judgement import FILES as JUDGED
from expectations.data.judgement import NOT_ASKED, Judged, judge_table
from expectations.data.measures import NOTHING, Asked
from expectations.data.messages import Rules
from expectations.data.observations import OF_SAMPLE
from expectations.data.profile.looks import PROFILE
from expectations.data.report import Report
from retune.errors import HubUnreachable
from retune.sources import HubOffline
from tasks.validate.classifier import planned
from tasks.validate.quarantine import EXCERPTS, QUARANTINE
from tasks.validate.repairs.repair import repair
from tasks.validate.repairs.trial import trials
from tasks.validate.screening import SCORES, screen, settle, write_accepted

if TYPE_CHECKING:
    import polars as pl

# Of what it leaves: small, without secrets, may be shared.
FILES = (*JUDGED, QUARANTINE, SCORES, PROFILE)

UNREACHABLE = "the Hub did not answer for the classifier"


class _Case(NamedTuple):
    """Rows on their way through the gate: by which rules, where to, and what else they are judged by."""

    rows: Path
    rules: Rules
    folder: Path
    evidence: Evidence

    def judged(self, table: "pl.LazyFrame", asked: Asked = NOTHING, scored: bool = True) -> Judged:
        import polars as pl

        examples = pl.read_parquet(self.folder / EXCERPTS)
        evidence = self.evidence._replace(asked=asked)
        return judge_table(table, examples, self.rules.config, evidence, scored)

    def hand_on(self, table: "pl.LazyFrame") -> None:
        """Write what `settle` writes of rows whose scores are not known."""
        write_accepted(self.rows, table, self.rules, self.folder)
        (self.folder / SCORES).write_text("null")


def gate(
    rows: Path,
    rules: Rules,
    folder: Path,
    reference: Reference = NO_REFERENCE,
    say: Callable[[str], None] = lambda _sentence: None,
    acknowledged: Sequence[frozenset[str]] = (),
) -> Report:
    """Repair, screen, settle and judge a Parquet file of rows, and write all of it into `folder`.

    `reference` is what is kept of the last accepted run, `acknowledged` are the names that the recipe
    says are not used on purpose, of each part of the dataset. The classifier is asked nothing
    about rows that are rejected whatever it would say; stored scores are judged with all else.
    """
    judged = judge_rows(rows, rules, folder, reference, say, acknowledged)
    judged.write(folder)
    return judged.report


def judge_rows(
    rows: Path,
    rules: Rules,
    folder: Path,
    reference: Reference = NO_REFERENCE,
    say: Callable[[str], None] = lambda _sentence: None,
    acknowledged: Sequence[frozenset[str]] = (),
    offline: bool = False,
) -> Judged:
    """Do what `gate` does but for the report's own files, which the outcome writes.

    With `offline`, what is expected of scores is not judged if the Hub, where the classifier is,
    does not answer; else that raises HubUnreachable.
    """
    rows, applied = repair(rows, rules.config.repairs, folder)
    table = screen(rows, rules, folder)
    record.write(trials(rows, table, rules, applied), folder)
    case = _Case(rows, rules, folder, Evidence.of(folder, acknowledged, reference))
    if planned(table, rules.config):
        judged = case.judged(table, scored=False)
        if judged.report.failed:
            case.hand_on(table)
            return judged.without_scores(NOT_ASKED)
    try:
        settled = settle(rows, table, rules, folder, say, folder)
    except (HubUnreachable, HubOffline) as error:
        if not offline:
            raise
        say(f"{UNREACHABLE}, so what is expected of scores is not judged ({error})")
        return _without_classifier(table, case)
    return case.judged(settled.table, settled.asked)


def _without_classifier(table: "pl.LazyFrame", case: _Case) -> Judged:
    """Judge what needs no classifier: if it was but to check a sample, the stored scores as well."""
    alone = case.rules.config.classifier.model_copy(update={"sample": 0})
    config = case.rules.config.model_copy(update={"classifier": alone})
    if planned(table, config):
        case.hand_on(table)
        return case.judged(table, scored=False).without_scores(UNREACHABLE)
    settled = settle(case.rows, table, case.rules._replace(config=config), case.folder)
    judged = case.judged(settled.table)
    return judged.with_verdicts(
        verdict.model_copy(update={"seen": UNREACHABLE}) if verdict.name in OF_SAMPLE else verdict
        for verdict in judged.report.verdicts
    )
