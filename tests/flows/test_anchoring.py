"""What a version's successors are judged by, kept in a real MLflow store, from champion to champion."""

import json
import os
import shutil

import polars as pl
import pytest

from expectations.promotion.decision import Decision
from expectations.verdicts import Judgement, Verdict
from flows.anchoring import held, keep
from flows.compared.evidence import evidence
from retune import registry, tracking
from retune.anchors import AnchorGone, Measuring, beside, carried_on, own_rows, recalled
from retune.building import building
from retune.files import digest, sha256
from retune.home import home
from retune.outcomes import HELD_OUT, LOSS, Outcome, example_name, write_outcomes
from retune.outputs import Step
from retune.recipe import Recipe
from retune.recipe.evaluation import ANCHOR
from retune.records import Anchored, Champion, Chats, Scores
from retune.retention import Retention, collect, inventory
from retune.row_losses import RowLoss
from tasks.anchor.rows import measured_anew
from tests.candidates import EVIDENCE, PINS, candidate
from tests.databases import furnish_mlflow

VALUES = {"model": {"base": "a/b"}, "dataset": {"source": "c/d"}}
PASSED, FAILED, WARNED = "passed", "failed", "warned"


@pytest.fixture(scope="module", autouse=True)
def store(tmp_path_factory):
    """One store for all, which takes seconds to make; each test has a recipe of its own."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("PREFECT", "MLFLOW"))]:
            patch.delenv(name)
        home = furnish_mlflow(tmp_path_factory.mktemp("home") / "home")
        patch.setenv("RETUNE_HOME", str(home))
        tracking.client.cache_clear()
        yield
        tracking.client.cache_clear()


@pytest.fixture
def line(request):
    return Line(f"r{digest(request.node.name)}")


def said(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def made(key: str, answers: dict[str, str], loss: float) -> tuple[Chats, Scores]:
    """Return a candidate's held-out rows, and its losses on them."""
    rows = [
        {"row": number, "source": "s", "messages": said(*pair), "text": "", "input_ids": [1, 2]}
        for number, pair in enumerate(answers.items())
    ]
    with building(Step(stage="format", key={"of": key})) as build:
        (build.path / "tokenizer").mkdir()
        (build.path / "tokenizer" / "tokenizer.json").write_text("{}")
        table = pl.DataFrame(rows)
        table.write_parquet(build.path / "held_out.parquet")
        table.head(0).write_parquet(build.path / "train.parquet")
        chats = build.finish(Chats)
    with building(Step(stage="evaluate", key={"of": key})) as build:
        lines = [outcome("tuned", HELD_OUT, row["messages"], loss) for row in rows]
        write_outcomes(build.path / "outcomes.parquet", lines)
        return chats, build.finish(Scores, files=("outcomes.parquet",))


def outcome(side: str, suite: str, messages: list[dict[str, str]], loss: float) -> Outcome:
    return Outcome(
        side=side,
        suite=suite,
        slice="s",
        example=example_name(messages, LOSS),
        prompt=json.dumps(messages),
        expected="",
        answer=None,
        stopped=None,
        tokens=2,
        seconds=None,
        grades={LOSS: loss},
    )


def decision(anchor: str) -> Decision:
    verdict = Verdict(
        gate="promote",
        name="anchor",
        expected="",
        seen="",
        passed=anchor == PASSED,
        severity="warning" if anchor == WARNED else "critical",
    )
    verdicts = [verdict] if anchor else []
    outcome = "rejected" if anchor == FAILED else "promote"
    return Decision(outcome, ("so",), (), Judgement("promote", "candidate", verdicts))


class Line:
    """The versions of one recipe."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.recipe = Recipe.parse(VALUES | {"name": name})

    @property
    def champion(self) -> Champion | None:
        return registry.champion(self.name)

    def key(self, of: str) -> str:
        return f"{self.name} {of}"

    def anchored(self, key: str, chats: Chats, loss: float) -> Anchored:
        """Return how a candidate does on the champion's anchor, without models."""
        rows = beside(recalled(self.champion, 500), chats).with_columns(candidate=pl.lit(loss))
        with building(Step(stage="anchor", key={"of": key})) as build:
            rows.write_parquet(build.path / "anchor.parquet")
            lines = [outcome("tuned", ANCHOR, one, loss) for one in rows["messages"].to_list()]
            write_outcomes(build.path / "outcomes.parquet", lines)
            return build.finish(Anchored, files=("outcomes.parquet",))

    def lost(self, key: str) -> Anchored:
        """Return how a candidate does on an anchor that cannot be had."""
        with building(Step(stage="anchor", key={"of": key})) as build:
            return build.finish(Anchored, missing="it is gone")

    def promoted(
        self,
        of: str,
        answers: dict[str, str],
        loss: float = 1.0,
        anchor: str = "",
        is_lost: bool = False,
    ) -> str:
        """Let a candidate be registered with its anchor and promoted; return its run."""
        champion, key = self.champion, self.key(of)
        pins = PINS.model_copy(update={"champion": champion})
        chats, scores = made(key, answers, loss)
        met = None
        if champion:
            met = self.lost(key) if is_lost else self.anchored(key, chats, loss)
        with tracking.start_run(self.recipe, key, {}) as run:
            run.log(scores)
            version = registry.register_candidate(run, self.recipe, PINS, candidate(key))
            if met and not is_lost:
                run.log(met)
            keep(run, version, decision(anchor), met, chats, scores, self.recipe, pins)
        number = champion and champion.version
        registry.promote(self.name, version.number, "test", key, EVIDENCE, number)
        return run.id

    def kept(self) -> dict[str, tuple[str, float]]:
        """Return answer and loss of each question of the champion's anchor."""
        rows = recalled(self.champion, 500)
        return {
            question: (answer, loss)
            for question, answer, loss in rows.select("asked", "answered", "loss").iter_rows()
        }


def test_the_first_champion_keeps_its_own_rows(line):
    run = line.promoted("one", {"a": "1", "b": "2"})
    champion = line.champion
    assert (champion.anchor.run_id, champion.anchor.rows) == (run, 2)
    assert line.kept() == {"a": ("1", 1.0), "b": ("2", 1.0)}


def test_first_answers_and_the_best_loss_go_from_champion_to_champion(line):
    line.promoted("one", {"a": "1", "b": "2"})
    line.promoted("two", {"a": "1", "b": "two", "c": "3"}, loss=0.9, anchor=PASSED)
    assert line.kept() == {"a": ("1", 0.9), "b": ("2", 0.9), "c": ("3", 0.9)}
    # Somewhat worse on them all, which was not told apart: the best is what counts. "a" is not asked.
    line.promoted("three", {"b": "two", "c": "three"}, loss=0.95, anchor=PASSED)
    assert line.kept() == {"b": ("2", 0.9), "c": ("3", 0.9)}


def test_one_that_a_person_promotes_in_spite_of_it_begins_anew(line):
    line.promoted("one", {"a": "1", "b": "2"})
    line.promoted("two", {"a": "corrected", "c": "3"}, loss=2.0, anchor=FAILED)
    assert line.kept() == {"a": ("corrected", 2.0), "c": ("3", 2.0)}


def test_one_that_a_schedule_promotes_in_spite_of_it_does_not(line):
    """With gates.severities `promote.anchor: warning`: else each night could forget the one before."""
    line.promoted("one", {"a": "1", "b": "2"})
    line.promoted("two", {"a": "poison", "b": "2", "c": "3"}, loss=2.0, anchor=WARNED)
    assert line.kept() == {"a": ("1", 1.0), "b": ("2", 1.0), "c": ("3", 2.0)}


def test_a_schedule_does_not_begin_anew_where_the_anchor_is_gone(line):
    first = line.promoted("one", {"a": "1"})
    line.promoted("two", {"a": "poison"}, anchor=WARNED, is_lost=True)
    assert line.champion.anchor.run_id == first
    assert line.kept() == {"a": ("1", 1.0)}
    last = line.promoted("three", {"a": "corrected"}, anchor=FAILED, is_lost=True)  # by a person
    assert line.champion.anchor.run_id == last
    assert line.kept() == {"a": ("corrected", 1.0)}


def test_a_waiver_begins_anew(line):
    line.promoted("one", {"a": "1"})
    line.recipe = Recipe.parse(
        VALUES | {"name": line.name, "promotion": {"anchor_waiver": "answers were corrected"}}
    )
    line.promoted("two", {"a": "corrected"}, loss=2.0)
    assert line.kept() == {"a": ("corrected", 2.0)}


def test_an_upgrade_forgives_nothing():
    """Each champion is somewhat worse than the one before, by less than can be told apart, and each is
    measured anew after an upgrade of torch, by which all losses grow: by 0.03, then by 0.1."""
    rows = pl.DataFrame(
        {"asked": ["a", "b"], "occurs": True, "loss": 1.0, "behind": 0.0, "tokens": 2}
    )

    def handed_on(rows: pl.DataFrame, candidate: float) -> pl.DataFrame:
        return held(rows.with_columns(candidate=candidate), Measuring("r", "l", "torch"))

    def anew(rows: pl.DataFrame, champion: float) -> pl.DataFrame:
        return measured_anew(rows, [RowLoss(2 * champion, 2)] * 2, Measuring("r", "l", "newer"))

    rows = handed_on(rows, 1.1)
    assert rows["loss"].to_list() == [1.0, 1.0]
    rows = handed_on(anew(rows, 1.13), 1.18)
    assert rows["loss"].to_list() == pytest.approx([1.03] * 2)
    rows = handed_on(anew(rows, 1.28), 1.3)
    assert rows["loss"].to_list() == pytest.approx([1.13] * 2)
    rows = handed_on(rows, 0.9)
    assert rows["loss"].to_list() == [0.9, 0.9]
    assert anew(rows, 0.95)["loss"].to_list() == [0.95, 0.95]


def test_the_salt_is_handed_on_and_a_new_anchor_has_another(line):
    anchors = []
    for key in ("one", "two"):
        chats, scores = made(line.key(key), {key: "1"}, 1.0)
        anchors.append(own_rows(chats.held_out, scores.outcomes, 500, Measuring("r", "l", "e")))
    former, own = (rows["salt"].unique().to_list() for rows in anchors)
    assert former != own
    assert len(bytes.fromhex(former[0])) == 16
    assert carried_on(*anchors, 500)["salt"].unique().to_list() == former


def test_an_anchor_of_an_earlier_retune_goes_on(line, tmp_path):
    """Its rows have neither salt nor `behind`."""
    run = line.promoted("one", {"a": "1", "b": "2"})
    recalled(line.champion, 500).drop("salt", "behind").write_parquet(tmp_path / "anchor.parquet")
    tracking.client().log_artifact(run, str(tmp_path / "anchor.parquet"), "anchor")
    file = line.champion.anchor.model_copy(update={"sha256": sha256(tmp_path / "anchor.parquet")})
    registry.keep_anchor(registry.serving(line.name), file)
    line.promoted("two", {"a": "one", "b": "2"}, loss=0.9, anchor=PASSED)
    assert line.kept() == {"a": ("1", 0.9), "b": ("2", 0.9)}


def test_one_that_serves_keeps_its_anchor(line):
    """The same weights, on other data: the rows that it was judged by are those of before."""
    line.promoted("one", {"a": "1"})
    chats, scores = made(line.key("again"), {"a": "poison"}, 1.0)
    pins = PINS.model_copy(update={"champion": line.champion})
    with tracking.start_run(line.recipe, "again", {}) as run:
        version = registry.register_candidate(run, line.recipe, PINS, candidate(line.key("one")))
        assert keep(run, version, decision(""), None, chats, scores, line.recipe, pins) is None
    assert line.kept() == {"a": ("1", 1.0)}


def test_a_rollback_goes_back_to_the_rows_of_that_version(line):
    line.promoted("one", {"a": "1"})
    line.promoted("two", {"b": "2"}, anchor=FAILED)
    assert set(line.kept()) == {"b"}
    registry.rollback(line.name, None, "ann", "answers in rhyme")
    assert set(line.kept()) == {"a"}


def test_a_comparison_of_runs_has_the_suite(line):
    line.promoted("one", {"a": "1", "b": "2"})
    run = line.promoted("two", {"a": "1", "c": "2"}, anchor=PASSED)
    assert dict(evidence(run).outcomes["suite"].value_counts().iter_rows()) == {
        "held_out": 2,
        "anchor": 2,
    }


def test_a_damaged_anchor_is_not_replaced_by_the_champions_own_rows(line):
    """These are all here, so that nobody would see it."""
    run = line.promoted("one", {"a": "1", "b": "2"})
    (file,) = (home() / "mlartifacts").rglob(f"{run}/artifacts/anchor/anchor.parquet")
    held_out = next((home() / "work" / "format").glob("*/held_out.parquet")).parent.name
    tracking.client().set_tag(run, "retune.step.format", held_out)
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(AnchorGone, match="is not what was kept there: its sha256 is another"):
        line.kept()
    file.unlink()
    with pytest.raises(AnchorGone, match="is not there any more"):
        line.kept()


def test_the_anchor_outlives_what_is_collected_and_the_work_folder(line):
    line.promoted("one", {"a": "1"})
    retention = Retention(keep_runs=0, keep_days=0, checkpoint_days=0)
    collect(inventory(retention).leftovers, retention)
    assert line.kept() == {"a": ("1", 1.0)}
    shutil.rmtree(home() / "work")  # as on another machine
    assert line.kept() == {"a": ("1", 1.0)}
    shutil.rmtree(home() / "mlartifacts")
    with pytest.raises(
        AnchorGone, match=r"anchor/anchor\.parquet of the MLflow run .* (there|read)"
    ):
        line.kept()
