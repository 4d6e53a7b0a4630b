"""The judge of a run: shows verdicts, keeps them in MLflow, and ends the run by a critical one."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from prefect import get_run_logger

from expectations.verdicts import Judgement, Rejected, Verdict, ranked, require, table_row
from flows.replaced import replace
from flows.run_names import shown_name
from retune.escaping import code, markdown
from retune.notes import VERDICTS
from retune.outputs import Output, mark_rejected
from retune.temporary import temporary_folder
from retune.tracking import Run
from tasks.stage import show


@contextmanager
def judging(run: Run) -> "Iterator[Judge]":
    """Give the judge of a run; in the end, however that comes, all verdicts are in Prefect.

    Also those of a stage that ends without an output: a training that diverged.
    """
    judge = Judge(run)
    try:
        yield judge
    except Rejected as rejected:
        if rejected.judgement.stage not in {verdict.gate for verdict in judge.verdicts}:
            judge.hear(None, rejected.judgement)
        raise
    finally:
        judge.publish_table()


class Judge:
    """Judges the outputs of one run.

    All verdicts so far are one table, `verdicts.json` in MLflow and `verdicts` in Prefect. Of an
    expectation that is judged twice the later verdict stands.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._verdicts: dict[tuple[str, str, str], Verdict] = {}
        self._told: set[str] = set()

    def __call__(self, output: Output | None, judgement: Judgement) -> None:
        """Take the verdicts on `output`. Raises Rejected if a critical expectation failed."""
        self.hear(output, judgement)
        require(judgement)

    def hear(self, output: Output | None, judgement: Judgement) -> list[Verdict]:
        """Take the verdicts on `output` (None: there is none) and return those that speak against it.

        An output that is rejected stays where it is, marked.
        """
        for verdict in judgement.verdicts:
            # Several quantiles of the scores are expected by one name.
            self._verdicts[judgement.stage, verdict.name, verdict.expected] = verdict
        self._log(judgement)
        self._show(judgement)
        if output:
            mark_rejected(output.step, [str(verdict) for verdict in judgement.failed])
        return judgement.failed

    @property
    def verdicts(self) -> list[Verdict]:
        """All verdicts so far, in the order of the line."""
        return list(self._verdicts.values())

    def publish_table(self) -> None:
        """Show all verdicts of the run in Prefect; what came with data or models is text there."""
        if self._verdicts:
            show(
                replace,
                key="verdicts",
                markdown=verdicts_page(ranked(self.verdicts)),
                description=f"What was expected of {shown_name()}, and what was seen",
            )

    def _log(self, judgement: Judgement) -> None:
        stage = judgement.stage
        if judgement.metrics:
            self._run.log_metrics(
                {f"{stage}/{name}": value for name, value in judgement.metrics.items()}
            )
        if judgement.write:
            with temporary_folder() as folder:
                self._run.log_files(folder, judgement.write(folder), stage)
        self._run.log_table([table_row(verdict) for verdict in self.verdicts], VERDICTS)

    def _show(self, judgement: Judgement) -> None:
        logger = get_run_logger()
        for verdict in judgement.verdicts:
            said = f"{verdict.gate}: {verdict}"
            # What two outputs of a gate are judged by is seen in both, and told once.
            if verdict.failed and verdict.severity == "warning" and said not in self._told:
                self._told.add(said)
                logger.warning("%s", said)
            elif verdict.failed and verdict.severity == "info":
                logger.info("%s: not met, and blocks nothing: %s", verdict.gate, verdict)
        if judgement.markdown:
            show(
                replace,
                key=f"{judgement.stage}-report",
                markdown=judgement.markdown,
                description=f"What was seen of the {judgement.subject} of {shown_name()}",
            )


def verdicts_page(verdicts: Sequence[Verdict]) -> str:
    """Return all verdicts in Markdown: how many of each outcome, what failed, and folded what passed."""
    counts = Counter(verdict.outcome for verdict in verdicts)
    names = {"FAILED": "failed and blocked", "failed": "failed without blocking"}
    told = "; ".join(f"{number} {names.get(one, one)}" for one, number in counts.items())
    open_ones = [verdict for verdict in verdicts if not verdict.passed]
    passed = [verdict for verdict in verdicts if verdict.passed]
    parts = [f"**{told}**", *([_verdicts_list(open_ones)] if open_ones else [])]
    if passed:
        heading = f"<details><summary>What passed ({len(passed)})</summary>"
        parts += [heading, _verdicts_list(passed), "</details>"]
    return "\n\n".join(parts)


def _verdicts_list(verdicts: Sequence[Verdict]) -> str:
    """Return a line for each; in a table Prefect's page would push the settings out of sight."""
    lines = []
    for verdict in verdicts:
        result = f"{verdict.outcome} ({verdict.severity})" if verdict.failed else verdict.outcome
        setting = f" ({code(verdict.setting)})" if verdict.setting else ""
        lines.append(
            f"- **{result}** {markdown(verdict.gate)}: {markdown(verdict.expected)}; seen: "
            f"{markdown(verdict.seen)}{setting}"
        )
    return "\n".join(lines)
