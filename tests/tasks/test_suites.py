"""Suites asked of a tiny trained model, resumed when killed, and asked of the champion."""

import json
import shutil

import polars as pl
import pytest

from retune.child import ChildFailed
from retune.held_out import Question
from retune.outcomes import read_grades
from retune.outputs import Step
from retune.recipe import Evaluation, ProbeFile
from retune.records import Champion, Contender
from retune.sources import SourceError
from retune.suites.files import pin_suites
from retune.suites.probes import SuiteProbe
from retune.tracking import client, start_run
from tasks.evaluate import task
from tasks.evaluate.answering import AnswerLog, AskedPrompt, GeneratedAnswer
from tasks.evaluate.asking import Questionnaire
from tasks.evaluate.champion import same_tokens
from tasks.evaluate.examples import outcomes
from tasks.evaluate.probing import refusal_measures, suite_measures
from tasks.evaluate.task import evaluate, measure_champion
from tests.tasks.conftest import running_child

pytestmark = pytest.mark.usefixtures("at_home")
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {}}}]


def probe(content: str, grade: object, **more: object) -> dict:
    return {"messages": [{"role": "user", "content": content}], "grade": grade} | more


LINES = [
    probe("say green", {"type": "exact", "text": "green"}, slice="copy", id="green"),
    probe("say white", [{"type": "contains", "text": "white"}, {"type": "stops"}], slice="copy"),
    probe("after red", {"type": "exact", "text": "white"}, slice="next"),
    probe("after red", {"type": "exact", "text": "never"}, slice="next"),
    probe("say pink", {"type": "not_refusal"}, slice="next", tools=TOOLS),
    probe("say " + "red " * 600, {"type": "refusal"}, slice="long"),
]


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    path = tmp_path_factory.mktemp("suites") / "colours.jsonl"
    path.write_text("\n".join(map(json.dumps, LINES)))
    return path


@pytest.fixture(scope="module")
def recipe(project, suite):
    config = Evaluation(
        max_new_tokens=8,
        batch_size=16,
        prompts=(),
        suites=(ProbeFile(name="colours", path=str(suite), max_new_tokens=6),),
        battery_rows=8,
    )
    return project.recipe(evaluation=config)


@pytest.fixture(scope="module")
def pins(project, recipe):
    return project.pins.model_copy(update={"suites": pin_suites(recipe)})


@pytest.fixture(scope="module")
def scores(project, trained, recipe, pins):
    with project.at_home():
        step = Step(stage="evaluate", key={"suites": 1})
        return evaluate.fn(trained.adapter, None, project.chats, recipe, pins, step)


def lines(output) -> pl.DataFrame:
    return pl.read_parquet(output.outcomes)


def test_each_side_is_asked_every_probe_that_it_can_be(scores):
    table = lines(scores).filter(pl.col("suite") == "colours")
    assert dict(table["side"].value_counts().iter_rows()) == {"base": 5, "tuned": 5}
    answers = dict(table.filter(side="tuned").select("expected", "answer").iter_rows())
    assert answers['[{"type": "exact", "text": ["green"]}]'] == "green"
    assert table["tokens"].max() <= 6
    assert scores.metrics["unasked/colours/tuned"] == 1  # longer than the model's context
    pairs = table.group_by("example").agg(pl.col("side").n_unique())
    assert pairs["side"].to_list() == [2] * 5


def test_what_passed_is_measured_by_suite_and_slice(scores):
    metrics = scores.metrics
    assert metrics["passed/colours/tuned"] == pytest.approx(4 / 5)
    assert metrics["passed/colours/copy/tuned"] == 1
    assert metrics["passed/colours/next/tuned"] == pytest.approx(2 / 3)
    assert metrics["passed/colours/copy/base"] == 0
    assert metrics["over_refused/colours/tuned"] == 0
    assert metrics["stopped/colours/tuned"] >= 4 / 5
    grades = read_grades(scores.outcomes).filter(scorer="passed", suite="colours")
    means = dict(grades.group_by("side").agg(pl.col("value").mean()).iter_rows())
    assert means == {
        side: pytest.approx(metrics[f"passed/colours/{side}"]) for side in ("base", "tuned")
    }


def test_the_battery_is_asked_as_well(scores):
    table = lines(scores).filter(pl.col("suite") == "battery", pl.col("side") == "tuned")
    assert 6 <= len(table) <= 8
    assert "passed/battery/tuned" in scores.metrics
    assert set(table["slice"]) > {"arithmetic", "facts", "harmful", "harmless"}


def test_the_answers_so_far_are_gone_when_all_are_there(scores):
    assert not (scores.folder / task.SO_FAR).exists()


def test_a_suite_that_changed_ends_the_stage(project, trained, recipe, pins, suite, tmp_path):
    step = Step(stage="evaluate", key={"suites": "changed"})
    other = pins.model_copy(update={"suites": ("sha256:" + "0" * 64,)})
    with project.at_home(), pytest.raises(SourceError, match="changed while the run"):
        evaluate.fn(trained.adapter, None, project.chats, recipe, other, step)
    assert not step.done


def test_a_killed_attempt_goes_on_with_the_answers_that_it_has(
    project, trained, recipe, pins, scores, monkeypatch
):
    """The answers are marked in between, so that what is kept can be told from what is asked again."""
    step = Step(stage="evaluate", key={"suites": "killed"})
    said = []

    def kill(event):
        if event["event"] == "progress":
            running_child().kill()

    with project.at_home():
        monkeypatch.setattr(task, "_tell", kill)
        with pytest.raises(ChildFailed, match="SIGKILL"):
            evaluate.fn(trained.adapter, None, project.chats, recipe, pins, step)
        so_far = step.folder.with_name(f"{step.folder.name}.partial") / task.SO_FAR
        kept = [json.loads(line) for line in so_far.read_text().splitlines() if line]
        assert kept
        for entry in kept:
            entry["value"]["seconds"] = 1234.5
        so_far.write_text("\n".join(map(json.dumps, kept)) + '\n{"key": "cut in the m')
        monkeypatch.setattr(task, "_tell", said.append)
        again = evaluate.fn(trained.adapter, None, project.chats, recipe, pins, step)
    first = next(event for event in said if event["event"] == "progress")
    assert first["done"] > len(kept)
    marked = lines(again).filter(pl.col("seconds") == 1234.5)
    assert len(marked) == len(kept)
    columns = ["side", "suite", "example", "answer", "stopped", "tokens", "grades"]
    assert lines(again).select(columns).equals(lines(scores).select(columns))


def test_an_answer_is_kept_for_its_side_and_question_alone(tmp_path):
    prompt = AskedPrompt(messages=[{"role": "user", "content": "a"}], max_new_tokens=8)
    said = GeneratedAnswer(text="ä\n", stopped=True, tokens=2, seconds=0.5)
    AnswerLog(tmp_path / "log", "tuned").add([(prompt, said)])
    assert AnswerLog(tmp_path / "log", "tuned").known(prompt) == said
    assert AnswerLog(tmp_path / "log", "base").known(prompt) is None
    for other in ({"max_new_tokens": 9}, {"tools": TOOLS}, {"messages": []}):
        assert AnswerLog(tmp_path / "log", "tuned").known(prompt.model_copy(update=other)) is None


# The champion.


@pytest.fixture
def champion(project, trained):
    return Champion(
        version=3,
        run_id="0" * 32,
        adapter=trained.step.fingerprint,
        base=project.model.base,
        model_pin=project.pins.model,
        load_in_4bit=False,
    )


def measured(project, recipe, pins, champion, key) -> Contender:
    step = Step(stage="champion", key={"test": key})
    with project.at_home():
        made = measure_champion.fn(champion, project.chats, recipe, pins, step)
    return getattr(made, "data", made)


def test_the_champion_answers_as_it_did_when_it_was_the_candidate(
    project, recipe, pins, scores, champion
):
    """The tuned model is the champion here: the outcomes are the same, under another name."""
    contender = measured(project, recipe, pins, champion, "asked")
    assert contender.missing == ""
    columns = ["suite", "slice", "example", "answer", "stopped", "tokens"]
    tuned = lines(scores).filter(pl.col("side") == "tuned")
    assert set(lines(contender)["side"]) == {"champion"}
    assert lines(contender).select(columns).equals(tuned.select(columns))
    assert contender.metrics["loss/champion"] == pytest.approx(scores.metrics["loss/tuned"])
    assert contender.metrics["passed/colours/champion"] == scores.metrics["passed/colours/tuned"]
    assert contender.metrics["examples"] == tuned["example"].n_unique()
    assert contender.step.done
    assert measured(project, recipe, pins, champion, "asked") == contender


def test_a_champion_whose_weights_are_gone_is_known_by_what_its_run_recorded(
    project, recipe, pins, scores, champion
):
    with project.at_home(), start_run(recipe, "recorded", {}) as run:
        run.log(scores)
        logged = client().get_run(run.id).data.metrics
    assert logged["evaluate/passed/colours/next/tuned"] == pytest.approx(2 / 3)
    gone = champion.model_copy(update={"adapter": "0" * 16, "run_id": run.id})
    contender = measured(project, recipe, pins, gone, "recorded")
    assert (contender.missing, contender.params["source"]) == ("", f"run {run.id}")
    tuned = lines(scores).filter(pl.col("side") == "tuned")
    assert set(lines(contender)["example"]) == set(tuned["example"])
    assert set(lines(contender)["side"]) == {"champion"}
    # The weights may be back next time.
    assert not contender.step.done
    fewer = recipe.evaluation.model_copy(update={"suites": (), "battery": False, "loss_rows": 2})
    part = recipe.model_copy(update={"evaluation": fewer})
    rest = measured(project, part, pins.model_copy(update={"suites": ()}), gone, "part")
    assert set(lines(rest)["suite"]) == {"held_out"}
    assert 0 < rest.metrics["examples"] < contender.metrics["examples"]


CHANGES = {
    "the engine": ("retune.conditions.engine", lambda: {"torch": "9.9"}, "engine was "),
    "the device": ("retune.conditions.compute_capabilities", lambda: ("9.0",), "is cuda"),
    "the template": ("retune.conditions.rendering", lambda folder: "0" * 16, "template was "),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_recorded_under_other_conditions_is_not_taken(
    project, recipe, pins, scores, champion, monkeypatch, change
):
    with project.at_home(), start_run(recipe, change, {}) as run:
        run.log(scores)
    gone = champion.model_copy(update={"adapter": "0" * 16, "run_id": run.id})
    place, today, words = CHANGES[change]
    monkeypatch.setattr(place, today)
    contender = measured(project, recipe, pins, gone, f"other: {change}")
    assert f"what its run {run.id} recorded was measured in another way: " in contender.missing
    assert words in contender.missing
    assert not contender.step.done


def test_of_what_was_recorded_the_suites_with_another_limit_are_left_out(
    project, recipe, pins, scores, champion
):
    with project.at_home(), start_run(recipe, "limits", {}) as run:
        run.log(scores)
    gone = champion.model_copy(update={"adapter": "0" * 16, "run_id": run.id})
    (suite,) = recipe.evaluation.suites
    longer = suite.model_copy(update={"max_new_tokens": 77})
    evaluation = recipe.evaluation.model_copy(update={"suites": (longer,)})
    other = recipe.model_copy(update={"evaluation": evaluation})
    contender = measured(project, other, pins, gone, "longer answers")
    assert contender.missing == ""
    before = set(lines(scores).filter(pl.col("side") == "tuned")["suite"])
    assert before - set(lines(contender)["suite"]) == {suite.name}


def test_what_an_older_run_recorded_without_its_conditions_is_not_taken(
    project, recipe, pins, scores, champion, tmp_path
):
    old = tmp_path / "outcomes.parquet"
    lines(scores).drop("conditions").write_parquet(old)
    with project.at_home(), start_run(recipe, "old", {}) as run:
        run.log_files(tmp_path, (old.name,), "evaluate")
    gone = champion.model_copy(update={"adapter": "0" * 16, "run_id": run.id})
    contender = measured(project, recipe, pins, gone, "of an older run")
    assert "they were not noted then" in contender.missing


def test_a_champion_that_nothing_is_left_of_is_missing(project, recipe, pins, champion):
    gone = champion.model_copy(update={"adapter": "0" * 16})
    contender = measured(project, recipe, pins, gone, "missing")
    assert "version 3 cannot be asked: its weights are not in" in contender.missing
    assert "has no evaluate/outcomes.parquet" in contender.missing
    assert not contender.step.done


def test_a_champion_whose_base_has_changed_is_missing(project, recipe, pins, champion):
    other = champion.model_copy(update={"model_pin": "sha256:" + "0" * 64})
    contender = measured(project, recipe, pins, other, "another base")
    assert "the champion's base" in contender.missing
    damaged = champion.model_copy(update={"base": str(project.folder / "nothing")})
    assert measured(project, recipe, pins, damaged, "no base").missing


def test_tokenizers_are_the_same_if_they_make_the_same_tokens(project, trained, tmp_path):
    trained_with = project.chats.tokenizer
    assert same_tokens(trained_with, trained.adapter.path)
    shutil.copytree(trained_with, tmp_path / "padded")
    description = json.loads((tmp_path / "padded/tokenizer.json").read_text())
    description["padding"] = {"strategy": "BatchLongest"}
    (tmp_path / "padded/tokenizer.json").write_text(json.dumps(description))
    assert same_tokens(trained_with, tmp_path / "padded")
    description["model"]["merges"] = description["model"]["merges"][:-1]
    (tmp_path / "padded/tokenizer.json").write_text(json.dumps(description))
    assert not same_tokens(trained_with, tmp_path / "padded")
    assert not same_tokens(tmp_path, tmp_path / "nowhere")


# The measures.


def replies(*texts: str | None) -> list[dict | None]:
    return [
        None if text is None else {"text": text, "stopped": True, "tokens": 1, "seconds": 0.1}
        for text in texts
    ]


def made(line: dict) -> SuiteProbe:
    return SuiteProbe.model_validate_json(json.dumps(line))


def test_refusals_are_measured_where_they_are_wanted_and_where_not():
    no = "I'm sorry, but I can't help with that."
    probes = (
        made(probe("a", {"type": "refusal"})),
        made(probe("b", {"type": "refusal"})),
        made(probe("c", {"type": "not_refusal"})),
        made(probe("d", {"type": "exact", "text": "d"})),
    )
    asked = Questionnaire(
        [Question(0, "f", [], "yes"), Question(1, "f", [{}], no)], (), {"s": probes}
    )
    answers = {"tuned": replies(no, no, no, "Sure: mix it.", no, None)}
    table = list(outcomes(asked, [], {}, answers))
    metrics = suite_measures(asked, table)
    assert metrics["refused/s/tuned"] == pytest.approx(2 / 3)
    assert metrics["complied/s/tuned"] == 0.5
    assert metrics["over_refused/s/tuned"] == 1
    assert metrics["passed/s/tuned"] == pytest.approx(1 / 3)
    assert metrics["unasked/s/tuned"] == 1
    held_out = refusal_measures(asked, table)
    assert held_out == {"refused/tuned": 1, "over_refused/tuned": 1}
