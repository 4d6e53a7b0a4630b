"""The ranking of `retune suspects`: what a run lost, and its rows by how much they speak for that."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel

from flows.compared.artifacts import artifact, table
from flows.compared.evidence import RunEvidence, evidence
from flows.compared.neighbours import beginnings
from flows.compared.rows import TRAIN
from flows.influence.child import InfluenceJob
from flows.influence.lost import MUCH, LostExamples, lost_examples
from flows.provenance import FOLDER
from flows.summary import Grid
from retune.bases import bases_unchanged, on_hub, selected
from retune.child import Event, run_child
from retune.errors import RetuneError
from retune.escaping import terminal, visible
from retune.home import home, mark
from retune.models import is_adapter
from retune.original import Original
from retune.outcomes import ARTIFACT as OUTCOMES
from retune.outcomes import BASE, CHAMPION, FILE, TUNED
from retune.outputs import here
from retune.records import Pins, Selection
from retune.registry import find
from retune.tracking import client

if TYPE_CHECKING:
    import polars as pl
    from mlflow.entities import Run as MlflowRun

CHILD = Path(__file__).with_name("child.py")
CHAMPIONS = f"champion/{FILE}"
SHOWN = 20  # rows in the terminal
EXCERPT = 100  # characters of a row there


class NoSuspects(RetuneError):
    """A run whose rows cannot be ranked: nothing was lost, or something of it is not here."""


class Suspect(BaseModel):
    """A training row: its `row` number in its source, its `score` (-1 to 1; positive: its training
    speaks for what was lost), and how it begins, masked."""

    row: int
    source: str
    score: float
    excerpt: str


class SuspectRows(BaseModel):
    """The rows of `run` that speak most for what it lost `against` another model, most suspect first.

    `lost` of the `common` examples were lost; `compared` of the `trained` training rows were looked at;
    a row is suspect with a score over `above`.
    """

    run: str
    against: str
    common: int
    lost: int
    trained: int
    compared: int
    above: float
    rows: list[Suspect]

    def grid(self) -> Grid:
        """Return the first of them as a table."""
        rows = [
            [
                visible(one.excerpt, EXCERPT),
                str(one.row),
                visible(one.source, 40),
                f"{one.score:.3f}",
            ]
            for one in self.rows[:SHOWN]
        ]
        return Grid(
            title=f"Suspect rows, by {self.lost} examples lost to {self.against}",
            columns=["", "row", "source", "score"],
            rows=rows or [["none", "", "", ""]],
        )


def ranked(
    run_id: str, against: str, limit: int, above: float, rows: int
) -> tuple[SuspectRows, Path]:
    """Return the suspect rows of a run, and the file of its accepted rows.

    `against` is base, champion, another run, or "" for the champion, if there was one, else the base.
    Raises NoSuspects, and as a child process does.
    """
    own = evidence(run_id)
    lost, opponent = _lost(own, against)
    numbers, trained = _sampled(own, rows)
    if own.texts is None:
        raise NoSuspects(_elsewhere(own.run, "validate"))
    scores, examples = _scores(own, lost, numbers)
    harmful = [(row, score) for row, score in scores if score > above]
    worst = sorted(harmful, key=lambda one: (-one[1], one[0]))[:limit]
    shown = sorted(row for row, _ in worst)
    texts = dict(zip(shown, beginnings(own.texts, shown), strict=True))
    sources = _sources(own, shown)
    found = SuspectRows(
        run=run_id,
        against=opponent,
        common=lost.common,
        lost=examples,
        trained=trained,
        compared=len(scores),
        above=above,
        rows=[
            Suspect(row=row, source=sources.get(row) or "", score=score, excerpt=texts[row])
            for row, score in worst
        ],
    )
    return found, own.texts


def _lost(own: RunEvidence, against: str) -> tuple[LostExamples, str]:
    """Return what was lost, and to whom. Raises NoSuspects."""
    if own.outcomes is None:
        raise NoSuspects(
            f"{_name(own.run)} has no evaluate/outcomes.parquet: it ended before it was evaluated, or "
            f"is of an older retune; name another run"
        )
    table, side, opponent = _opponent(own, against)
    lost = lost_examples(own.outcomes, table, side or TUNED)
    if not lost.common:
        raise NoSuspects(
            f"{_name(own.run)} and {opponent} were asked no example in common: name another run by "
            f"--against"
        )
    if not lost.losses and not lost.answers:
        raise NoSuspects(
            f"{_name(own.run)} lost none of {lost.common:,} examples to {opponent} (a right answer, or "
            f"{MUCH} nats per token): there is nothing to look for; --against names another model"
        )
    return lost, opponent


def _opponent(own: RunEvidence, against: str) -> "tuple[pl.DataFrame, str, str]":
    """Return the outcomes of what the run is held against, their side, and what it is called."""
    assert own.outcomes is not None, "asked before"
    if against in ("", CHAMPION):
        champions = table(own.run.info.run_id, CHAMPIONS)
        if champions is not None:
            return champions, CHAMPION, "the champion"
        if against == CHAMPION:
            raise NoSuspects(
                f"{_name(own.run)} was not compared with a champion; name base or another run by "
                f"--against"
            )
    if against in ("", BASE):
        return own.outcomes, BASE, "its base"
    other = client().get_run(find(against))
    outcomes = table(other.info.run_id, OUTCOMES)
    if outcomes is None:
        raise NoSuspects(f"{_name(other)} has no evaluate/outcomes.parquet; name another run")
    return outcomes, "", _name(other)


def _sampled(own: RunEvidence, count: int) -> tuple[list[int], int]:
    """Return the numbers of the training rows to compare, and how many there are.

    Those of the lowest digests of their messages: the same rows in every run that has them.
    """
    import polars as pl

    if own.rows is None:
        raise NoSuspects(
            f"{_name(own.run)} has no rows/accepted.parquet: it ended before, or is of an older retune"
        )
    lines = own.rows.filter(pl.col("split") == TRAIN)
    share = lines["share"].first() if len(lines) else 1.0
    chosen = lines.sort("digest", "row").head(count)["row"].to_list()
    return chosen, round(len(lines) / float(share or 1.0))  # type: ignore[arg-type]


def _scores(
    own: RunEvidence, lost: LostExamples, numbers: list[int]
) -> tuple[list[tuple[int, float]], int]:
    """Return number and score of each row that has one, and of how many lost examples they are."""
    recipe, pins = own.recipe, _pins(own.run)
    if recipe is None or pins is None:
        raise NoSuspects(
            f"{_name(own.run)} has no recipe that this version of retune can read (artifacts "
            f"provenance/recipe.resolved.yaml and pins.json)"
        )
    chats, adapter = _folder(own.run, "format"), _folder(own.run, "train") / "adapter"
    if not is_adapter(adapter):
        raise NoSuspects(
            f"{_name(own.run)} trained all weights (training.method={recipe.training.method}), and "
            f"gradients are taken of an adapter's; train one with training.method=lora"
        )
    original = _original(own, pins)
    job = InfluenceJob(
        adapter=adapter,
        model=recipe.model,
        revision=pins.commit(pins.model),
        original=original,
        tokenizer=chats / "tokenizer",
        train=chats / "train.parquet",
        held_out=chats / "held_out.parquet",
        rows=numbers,
        losses=lost.losses,
        answers=lost.answers,
    )
    log = mark(home() / "suspects") / f"{own.run.info.run_id}.log"
    hub = on_hub(job.revision, original)
    with bases_unchanged(recipe, pins):
        said = run_child(CHILD, job, log, _tell, hub=hub, forked=True)
    return [(int(row), float(score)) for row, score in said["scores"]], said["examples"]


def _original(own: RunEvidence, pins: Pins) -> Original | None:
    """Return the 16-bit weights that the adapter was evaluated on; None: those it was trained on."""
    assert own.recipe is not None, "asked before"
    if "retune.step.select" not in own.run.data.tags:
        return None
    record = _folder(own.run, "select") / "output.json"
    selection = Selection.model_validate_json(record.read_text(encoding="utf-8"))
    return selected(selection, own.recipe, pins)


def _pins(run: "MlflowRun") -> Pins | None:
    with artifact(run.info.run_id, f"{FOLDER}/pins.json") as file:
        return Pins.model_validate_json(file.read_text(encoding="utf-8")) if file else None


def _sources(own: RunEvidence, numbers: list[int]) -> dict[int, str]:
    """Return the sources of rows, masked as they were kept."""
    import polars as pl

    assert own.rows is not None, "asked before"
    lines = own.rows.filter(pl.col("row").is_in(numbers))
    return dict(lines.select("row", "source").iter_rows())


def _folder(run: "MlflowRun", stage: str) -> Path:
    """Return the folder of a stage's output of a run. Raises NoSuspects if it is not here."""
    folder = here(f"{stage}/{run.data.tags.get(f'retune.step.{stage}', '')}")
    if not (folder / "output.json").is_file():
        raise NoSuspects(_elsewhere(run, stage))
    return folder


def _elsewhere(run: "MlflowRun", stage: str) -> str:
    return (
        f"the output of {stage} of {_name(run)} is not on this machine (its work folder is gone, or on "
        f"another one): ask there, or make it again with `retune run`"
    )


def _name(run: "MlflowRun") -> str:
    return visible(run.info.run_name or run.info.run_id, 80)


def _tell(event: Event) -> None:
    """Say what the child is at, where it does not mix with JSON."""
    if event["event"] == "progress":
        print(f"{event['done']:,} of {event['total']:,} rows", file=sys.stderr)
    elif event["event"] == "state":
        print(terminal(event["text"]), file=sys.stderr)
