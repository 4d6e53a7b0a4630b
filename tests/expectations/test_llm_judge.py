"""Whether the grades of an LLM judge count."""

from datetime import UTC, datetime

import pytest

from expectations.llm_judge import counted, judgement
from retune.outputs import Step
from retune.recipe import Recipe, set_value
from retune.records import JudgedAnswers

VALUES = {
    "name": "n",
    "model": {"base": "b"},
    "dataset": {"source": "d.jsonl"},
    "evaluation": {"judge": {"url": "http://localhost/v1", "model": "m"}},
}
SOUND = {"votes": 100.0, "no_vote_share": 0.02, "preferred/held_out/tuned": 0.6}


def judged(**metrics: float) -> JudgedAnswers:
    step = Step(stage="judge", key={})
    return JudgedAnswers(step=step, metrics=SOUND | metrics, started=datetime.now(UTC), seconds=1)


def kappa(value: float, kind: str = "comparison") -> dict[str, float]:
    ends = {f"kappa_low/{kind}": value - 0.1, f"kappa_high/{kind}": value + 0.1}
    return {f"kappa/{kind}": value, f"labels/{kind}": 50} | ends


@pytest.mark.parametrize(
    ("metrics", "counts"),
    [
        ({}, True),
        (kappa(0.4), True),
        (kappa(0.39), False),
        (kappa(0.9) | kappa(0.1, "rubric"), False),
        ({"no_vote_share": 0.1}, True),
        ({"no_vote_share": 0.11}, False),
    ],
)
def test_grades_count_if_the_judge_is_to_be_trusted(metrics, counts):
    made, recipe = judged(**metrics), Recipe.parse(VALUES)
    assert counted(made, recipe) == counts
    verdicts = judgement(made, recipe).verdicts
    assert any("its grades do not count" in verdict.seen for verdict in verdicts) != counts
    assert not judgement(made, recipe).failed, "a warning ends no run"


def test_without_labels_agreement_is_not_judged():
    (agreement, _) = judgement(judged(), Recipe.parse(VALUES)).verdicts
    assert not agreement.judged
    assert "no labels" in agreement.seen


def test_the_limit_and_its_gravity_are_the_recipes():
    recipe = Recipe.parse(set_value(VALUES, "evaluation.judge.min_kappa=0.95"))
    assert not counted(judged(**kappa(0.9)), recipe)
    grave = Recipe.parse(set_value(VALUES, "gates.severities={judge.agreement: critical}"))
    assert judgement(judged(**kappa(0.1)), grave).failed
