"""A run describes itself: its name and note in MLflow, and the links between MLflow and Prefect."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from prefect import runtime
from prefect.artifacts import create_link_artifact

from expectations.data.masking import masked
from expectations.verdicts import Rejected
from flows.approval import flow_run_page
from flows.compared.changed_rows import change_of_rows
from flows.compared.rows import log_rows
from flows.replaced import replace
from flows.run_names import is_given, shown_name
from flows.run_page import CURRENT
from retune import registry
from retune.escaping import visible
from retune.notes import (
    CHANGED,
    CHANGED_SINCE,
    NOTE,
    RUN_NAME,
    SEPARATOR,
    WARNED,
    before,
    changed,
    changes,
    has_evidence,
    note,
    settings,
    stored_run,
    verdicts_of,
)
from retune.pages import mlflow_pages
from retune.recipe import Recipe
from retune.records import Chats, Rows, Scores
from retune.registry.candidates import REGISTERED_AS
from retune.retention import WAITING
from retune.saved_view import NAME, describe_experiment, evidence_link, link, run_link
from retune.tracking import DECISION, OUTCOME, Run, Waiting, client
from tasks.stage import show

if TYPE_CHECKING:
    from mlflow.entities import Run as MlflowRun

SAMPLES = "samples.json"
SAMPLED = ("prompt", "expected", "base", "tuned")
FINISHED = "Finished"  # a run that nothing was to be decided about
LONGEST_REASON = 400  # characters of an error in a note


@contextmanager
def described(run: Run, recipe: Recipe) -> "Iterator[Description]":
    """Give a run its name and links at once, and in the end, however that comes, its note."""
    CURRENT.set(run)
    description = Description(run, recipe)
    description.begin()
    try:
        yield description
    except BaseException as error:
        _try(description, *_ended_by(error))
        raise
    description.end(_decision(run).partition(":")[0] or FINISHED, _passed(run))


class Description:
    """What is said of one run; `earlier` is the recipe's run before it, `reference` the one that its
    changes are told against: that of the version that serves, or the run before."""

    def __init__(self, run: Run, recipe: Recipe) -> None:
        self._run, self._recipe = run, recipe
        self.earlier = before(run.id, run.experiment_id, recipe.name)
        serving = _serving(recipe, run.id)
        self.reference = serving or self.earlier
        self._whose = "champion" if serving else "run before"
        self._rows = ""

    def begin(self) -> None:
        """Name the run, and link it with Prefect's, before anything is made."""
        describe_experiment(self._run.experiment_id, self._recipe.name)
        self._name()
        if address := mlflow_pages():
            show(
                replace,
                kind=create_link_artifact,
                link=run_link(address, self._run.experiment_id, self._run.id),
                link_text="in MLflow",
                key="mlflow",
                description=f"{shown_name()} in MLflow. [Which run is better]"
                f"({link(address, self._run.experiment_id)}) shows it beside the others.",
            )
        self._write("The run is at work.")

    def rows(self, sound: Rows, chats: Chats) -> None:
        """Keep what tells the accepted rows of runs apart, and say what changed of them."""
        log_rows(self._run, sound, chats)
        if self.reference:
            self._rows = change_of_rows(self.reference.info.run_id, self._run.id)
            self._name()

    def samples(self, scores: Scores) -> None:
        """Keep what base and tuned model answered as a table that MLflow shows beside other runs'."""
        self._run.log_table(masked_samples(scores), SAMPLES)

    def end(self, outcome: str, sentence: str) -> None:
        """Write the note: `outcome` is the name of Prefect's state (Promoted, Undecided, Rejected, …),
        Finished or Stopped, with its `sentence`."""
        self._run.set_tags({OUTCOME: outcome})
        self._name()
        self._write(sentence)

    def _name(self) -> None:
        now = settings(self._recipe)
        then = self.reference.data.params if self.reference else now
        known = {name: value for name, value in now.items() if name in then}
        words = changed(
            changes({name: then[name] for name in known}, known), self._rows, self.reference is None
        )
        since = f"{self._whose}/{self.reference.info.run_id}" if self.reference else ""
        self._run.set_tags({CHANGED: words, CHANGED_SINCE: since})
        if not is_given(runtime.flow_run.name):
            # In a column that cuts names, version and change are what is left of them; then Prefect's.
            number = (
                client().get_run(self._run.id).data.tags.get(REGISTERED_AS, "").rpartition("/")[2]
            )
            parts = [f"v{number}"] if number else []
            name = SEPARATOR.join([*parts, words, str(runtime.flow_run.name)])
            self._run.set_tags({RUN_NAME: name})

    def _write(self, sentence: str) -> None:
        links = {"This run in Prefect": flow_run_page()}
        if has_evidence(self._run.id):
            page = evidence_link("", self._run.experiment_id, self._run.id)
            links = {"The evidence": page, **links}
        self._run.set_tags({NOTE: note(self._run.id, sentence, self.earlier, links)})


def _serving(recipe: Recipe, run_id: str) -> "MlflowRun | None":
    """Return the run of the version that serves, if it is another than `run_id` and still there."""
    serving = registry.serving(recipe.name)
    return stored_run(serving.run_id) if serving and serving.run_id != run_id else None


def masked_samples(scores: Scores) -> list[dict[str, str | None]]:
    """Return prompt, expected answer and both answers of each sample, masked."""
    import polars as pl

    with scores.some(SAMPLES) as folder:
        table = pl.read_json(folder / SAMPLES, infer_schema_length=None)
    columns = [masked(table[name].cast(pl.String)).alias(name) for name in SAMPLED]
    return table.with_columns(columns).select(*SAMPLED, "family").to_dicts()


def addresses(run_id: str) -> list[str]:
    """Return where a run is on MLflow's pages, and beside others; nothing where no server shows them."""
    address, experiment = mlflow_pages(), client().get_run(run_id).info.experiment_id
    if not address:
        return []
    return [
        f"In MLflow: {run_link(address, experiment, run_id)}",
        f"{NAME}: {link(address, experiment)}",
    ]


def _try(description: Description, outcome: str, sentence: str) -> None:
    """Write the note of a run that ends by an error, which no other error may take the place of."""
    try:
        description.end(outcome, sentence)
    except Exception:
        logging.getLogger(__name__).warning("the run's note was not written", exc_info=True)


def _ended_by(error: BaseException) -> tuple[str, str]:
    if isinstance(error, Rejected):
        failed = error.judgement.failed
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        lead = error.judgement.lead or f"{failed[0]}{more}"
        return "Rejected", f"Rejected by the gate of {error.judgement.stage}: {lead}"
    if isinstance(error, Waiting):
        return WAITING, f"{error}."
    if not isinstance(error, Exception):
        return "Stopped", "Stopped before its end: run it again, finished stages are reused."
    words = visible(str(error).partition("\n")[0], LONGEST_REASON)
    return "Failed", f"Failed: {words or type(error).__name__}"


def _decision(run: Run) -> str:
    """Return the first line of what was decided about a run's candidate, "" if nothing was."""
    return client().get_run(run.id).data.tags.get(DECISION, "").partition("\n")[0]


def _passed(run: Run) -> str:
    """Return what the gates said in all; files that do not ship and warnings are told."""
    decision = _decision(run)
    if decision.startswith("Skipped"):
        return decision
    results = [one["result"] for one in verdicts_of(run.id)]
    failed, warned = results.count("FAILED"), results.count(WARNED)
    gates = "passed every gate that ends a run"
    parts = [f"{decision}. It {gates}" if decision else f"Finished: {gates}"]
    parts += [f"{failed} expectations of single files failed: these do not ship"] if failed else []
    parts += [f"{warned} warnings"] if warned else []
    return "; ".join(parts) + "."
