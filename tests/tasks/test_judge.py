"""The stage judge on outcomes that were made, asked of a real server."""

import json
from datetime import UTC, datetime

import polars as pl
import pytest

from expectations.promotion.contest import contest
from flows.judge_estimate import estimated, judge_estimate
from flows.plan import make_plan
from flows.promotion import opponent
from retune.judging.errors import JudgeFailed
from retune.outcomes import Outcome, example_name, read_grades, write_outcomes
from retune.outputs import Step, read_output
from retune.pinning import pin_labels
from retune.recipe import Evaluation, Promotion, Recipe
from retune.records import Champion, Contender, Pins, Scores
from retune.sources import SourceError
from retune.suites.files import pin_suites
from retune.suites.probes import SuiteProbe
from tasks.evaluate.asking import Questionnaire
from tasks.evaluate.examples import outcomes as of_evaluation
from tasks.evaluate.probing import suite_measures
from tasks.judge import task
from tasks.judge.task import ask_judge
from tests.judge_server import judge_server, longer, parts, said

PINS = Pins(dataset="sha256:d", model="sha256:m")
RUBRIC = {"type": "judge", "rubric": "says hello"}
ANSWERS = {"base": "no", "tuned": "hello you", "champion": "hello"}


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("RETUNE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(task, "_tell", lambda *_: None)  # no run that could log it


def outcome(side: str, number: int, suite: str, expected: str, answer: str) -> Outcome:
    messages = [{"role": "user", "content": f"question {number}"}]
    return Outcome(
        side=side,
        suite=suite,
        slice="all",
        example=example_name(messages, expected),
        prompt=json.dumps(messages),
        expected=expected,
        answer=answer,
        stopped=True,
        tokens=3,
        seconds=0.1,
        grades={"stopped": 1.0},
    )


def outcomes(side: str, answer: str, count: int = 6) -> list[Outcome]:
    made = [outcome(side, n, "held_out", "hello", answer) for n in range(count)]
    return [*made, outcome(side, 0, "greetings", json.dumps([RUBRIC]), answer)]


def made(kind, stage: str, key: object, lines: list[Outcome], **more):
    step = Step(stage=stage, key={"test": key})
    step.folder.mkdir(parents=True)
    write_outcomes(step.folder / "outcomes.parquet", lines)
    return kind(step=step, started=datetime.now(UTC), seconds=1, **more)


def recipe(url: str, **judge: object) -> Recipe:
    values = {"name": "n", "model": {"base": "b"}, "dataset": {"source": "d.jsonl"}}
    settings = {"url": url, "model": "m", "attempts": 1} | judge
    return Recipe.parse(values | {"evaluation": {"judge": settings}})


def judged(url: str, champion: bool = True, source: str = "asked", pins: Pins = PINS, **judge):
    sides = outcomes("base", ANSWERS["base"]) + outcomes("tuned", ANSWERS["tuned"])
    scores = made(Scores, "evaluate", [champion, source], sides)
    contender = None
    if champion:
        own = outcomes("champion", ANSWERS["champion"])
        contender = made(Contender, "champion", [source], own, params={"source": source})
    step = Step(stage="judge", key={"test": [champion, source]})
    return ask_judge.fn(scores, contender, recipe(url, **judge), pins, step)


def by_rule(body):
    """Pass what says hello; prefer what is longer."""
    sent = parts(body)
    if "Answer" in sent:
        return said("pass" if "hello" in sent["Answer"] else "fail")
    return longer(body)


def grades(output, side: str, scorer: str) -> list[float]:
    table = read_grades(output.outcomes)
    return table.filter((pl.col("side") == side) & (pl.col("scorer") == scorer))["value"].to_list()


def test_answers_are_graded_and_compared_with_the_champions():
    with judge_server(by_rule) as server:
        output = judged(server.url)
    assert [grades(output, side, "judge") for side in ANSWERS] == [[0], [1], [1]]
    assert grades(output, "tuned", "preferred") == [1] * 6
    assert grades(output, "champion", "preferred") == [0] * 6
    assert grades(output, "base", "preferred") == []
    assert len(server.bodies) == 3 + 2 * 6 == output.metrics["judge_requests"]
    assert output.metrics["preferred/held_out/tuned"] == 1
    assert output.metrics["judge/greetings/base"] == 0
    assert output.metrics["no_vote_share"] == output.metrics["tied/held_out"] == 0
    assert output.params["templates"].startswith("sha256:")
    votes = pl.read_parquet(output.folder / "votes.parquet")
    assert len(votes) == 15
    assert votes["reply"].str.contains("so it seems").all()
    assert read_output(output.step, type(output)) == output


def test_without_a_champion_the_base_is_the_opponent():
    with judge_server(by_rule) as server:
        output = judged(server.url, champion=False)
    assert grades(output, "base", "preferred") == [0] * 6


def test_a_judge_that_prefers_the_first_answer_prefers_none():
    with judge_server(lambda body: said("first")) as server:
        output = judged(server.url)
    assert set(grades(output, "tuned", "preferred")) == {0.5}
    assert output.metrics["tied/held_out"] == 1


def test_same_answers_are_a_tie_that_nobody_is_asked_about(monkeypatch):
    monkeypatch.setitem(ANSWERS, "tuned", "hello")
    with judge_server(by_rule) as server:
        output = judged(server.url)
    assert set(grades(output, "tuned", "preferred")) == {0.5}
    assert len(server.bodies) == 2, "a rubric for two different answers"


def test_no_vote_is_no_grade_and_counted():
    def behave(body):
        return "what?" if "First answer" in parts(body) else by_rule(body)

    with judge_server(behave) as server:
        output = judged(server.url)
    assert grades(output, "tuned", "preferred") == []
    assert grades(output, "tuned", "judge") == [1]
    assert output.metrics["no_vote_share"] == pytest.approx(6 / 9)


def test_the_contest_is_held_by_the_judges_grades():
    with judge_server(by_rule) as server:
        output = judged(server.url)
    table = read_grades(output.outcomes)
    sides = [table.filter(pl.col("side") == side) for side in ("tuned", "champion")]
    differences = {one.metric: one for one in contest(*sides, Promotion(), {})}
    preferred = differences["held_out/preferred"]
    assert (preferred.examples, preferred.estimate, preferred.candidate) == (6, 1, 1)
    assert differences["greetings/judge"].estimate == 0


def test_what_the_champions_own_run_recorded_is_judged_again_next_time():
    with judge_server(by_rule) as server:
        assert judged(server.url).step.done
        output = judged(server.url, source="run 1")
    assert not output.step.done
    assert grades(output, "champion", "preferred") == [0] * 6


def test_the_file_of_all_sides_is_the_champions_too(tmp_path):
    champion = Champion(
        version=1, run_id="r", adapter="a", base="b", model_pin="m", load_in_4bit=False
    )
    pins = PINS.model_copy(update={"champion": champion})
    contender = made(Contender, "champion", "x", outcomes("champion", "hello"))
    assert opponent(pins, contender, tmp_path).outcomes == tmp_path
    assert opponent(pins, contender).outcomes == contender.outcomes
    gone = contender.model_copy(update={"missing": "gone"})
    assert opponent(pins, gone, tmp_path).outcomes is None


def test_a_judge_is_held_to_peoples_labels(tmp_path):
    lines = [
        {"prompt": "p", "rubric": "r", "answer": f"hello {n}" if n < 6 else f"no {n}"}
        | {"verdict": "pass" if n % 10 < 5 else "fail"}
        for n in range(10)
    ]
    lines += [
        {"prompt": "p", "answers": [f"{n}", f"{n} xx"], "verdict": "second"} for n in range(9)
    ]
    lines += [{"prompt": "p", "answers": ["longer", "short"], "verdict": "tie"}]
    file = tmp_path / "labels.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    with judge_server(by_rule) as server:
        own = recipe(server.url, labels=str(file))
        pins = PINS.model_copy(update={"judge_labels": pin_labels(own)})
        output = judged(server.url, pins=pins, labels=str(file))
        file.write_text(file.read_text().replace("longer", "much longer"))
        with pytest.raises(SourceError, match=r"evaluation\.judge\.labels"):
            judged(server.url, champion=False, pins=pins, labels=str(file))
    # 5 pass/pass, 1 fail/pass, 4 fail/fail: p_o = 0.9, p_e = 0.5.
    assert output.metrics["kappa/rubric"] == pytest.approx(0.8)
    assert output.metrics["labels/comparison"] == 10
    # 9 second/second, 1 tie/first: p_o = 0.9, p_e = 0.81.
    assert output.metrics["kappa/comparison"] == pytest.approx((0.9 - 0.81) / (1 - 0.81))


def test_a_secret_that_prefect_does_not_have_is_told(monkeypatch):
    from prefect.blocks.system import Secret

    def load(name, _sync):
        raise ValueError(name)

    monkeypatch.setattr(Secret, "load", load)
    with pytest.raises(JudgeFailed, match="no Secret block 'key'"):
        task.secret("key")


def test_probes_for_a_judge_need_one(tmp_path):
    file = tmp_path / "probes.jsonl"
    line = {"messages": [{"role": "user", "content": "Hi"}], "grade": RUBRIC}
    file.write_text(json.dumps(line))
    values = {"name": "n", "model": {"base": "b"}, "dataset": {"source": "d.jsonl"}}
    suites = {"suites": [{"name": "s", "path": str(file)}]}
    with pytest.raises(SourceError, match="1 probes are graded by a judge"):
        pin_suites(Recipe.parse(values | {"evaluation": suites}))
    judge = {"judge": {"url": "http://localhost/v1", "model": "m"}}
    assert len(pin_suites(Recipe.parse(values | {"evaluation": suites | judge}))) == 1


def test_what_only_a_judge_grades_has_neither_passed_nor_failed():
    """And of a probe with rules besides, these alone say whether it has."""

    def probe(name: str, *grade: object) -> SuiteProbe:
        messages = [{"role": "user", "content": name}]
        line = {"messages": messages, "grade": grade, "slice": name}
        return SuiteProbe.model_validate_json(json.dumps(line))

    both = probe("both", RUBRIC, {"type": "contains", "text": "hello"})
    probes = (probe("one", RUBRIC), both)
    asked = Questionnaire([], (), {"s": probes, "judged": probes[:1]})
    reply = {"text": "hello", "stopped": True, "tokens": 1, "seconds": 0.1}
    lines = list(of_evaluation(asked, [], {}, {"tuned": [reply] * 3}))
    assert ["passed" in line.grades for line in lines] == [False, True, False]
    measures = suite_measures(asked, lines)
    assert measures["passed/s/tuned"] == 1
    assert "passed/s/one/tuned" not in measures
    assert "passed/judged/tuned" not in measures
    assert measures["stopped/judged/tuned"] == 1


def test_a_plan_counts_requests():
    probe = SuiteProbe.model_validate_json(
        json.dumps({"messages": [{"role": "user", "content": "Hi"}], "grade": RUBRIC})
    )
    own = recipe("http://localhost/v1", votes=3, temperature=0.7, compare=["held_out"])
    requests, tokens = estimated(own, {"s": (probe, probe)}, [], with_champion=True)
    assert requests == 3 * 3 * 2 + 2 * 3 * 200
    assert tokens > requests * 100
    assert estimated(own, {}, [], with_champion=False)[0] == 1200


def test_a_plan_says_what_a_judge_costs():
    own = recipe("http://localhost/v1", price_input=1.0, price_output=2.0)
    rows = {row[0]: row for row in judge_estimate(own, PINS, make_plan(own, PINS))}
    assert rows["requests to the judge"][1:] == ["up to 400", "by m, votes: 1"]
    sent = float(rows["tokens of the judge"][1].split(" + ")[0].replace(",", ""))
    about = (sent + 2 * 400 * 60) / 1e6
    most = (sent + 2 * 400 * 1024) / 1e6
    assert rows["cost of the judge"][1:] == [f"about {about:.2f}", f"at most {most:.2f}"]
    free = recipe("http://localhost/v1")
    assert len(judge_estimate(free, PINS, make_plan(free, PINS))) == 2
    none = free.model_copy(update={"evaluation": Evaluation()})
    assert judge_estimate(none, PINS, make_plan(none, PINS)) == []
