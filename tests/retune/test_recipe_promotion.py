"""The section `promotion` of a recipe."""

import pytest

from expectations.promotion.contest import direction
from retune.outcomes import LOSS, PASSED
from retune.recipe import Promotion, Recipe, RecipeError
from retune.recipe.metrics import NO_DIRECTION, OF_HELD_OUT, OF_JUDGE, OF_PROBES
from tasks.evaluate.examples import EXACT_MATCH, REFUSED, REPETITIVE, STOPPED
from tasks.judge.grading import JUDGE as JUDGED
from tasks.judge.grading import PREFERRED

VALUES = {"name": "sums", "model": {"base": "b"}, "dataset": {"source": "d.jsonl"}}


def section(**promotion) -> Promotion:
    return Recipe.parse(VALUES | {"promotion": promotion}).promotion


def test_a_margin_is_a_number_or_a_multiple_of_the_noise():
    config = section(
        margins={"held_out/loss": "2σ", "loss": "1.5 sigma", "passed": 0.1, "stopped": "0.2"}
    )
    assert config.multiples == {"held_out/loss": 2.0, "loss": 1.5}
    assert {name: config.margins[name] for name in ("passed", "stopped")} == {
        "passed": 0.1,
        "stopped": 0.2,
    }


@pytest.mark.parametrize(
    ("promotion", "words"),
    [
        ({"margins": {"loss": "2 sd"}}, "'2 sd' is no margin; use a number, or a text such as 2σ"),
        ({"margins": {"loss": -1}}, "'loss': should be 0 or more"),
        ({"margins": {"loss": "-1"}}, "'loss': should be 0 or more"),
        ({"margins": {"loss": float("nan")}}, "'loss': should be 0 or more"),
        ({"margins": {"loss": True}}, "'loss': should be a number"),
        ({"margins": {"loss": ["2σ"]}}, "'loss': should be a number"),
        ({"margins": {"loss": 10**400}}, "'loss': should be 0 or more"),
        ({"margins": ["loss"]}, "should be a valid dictionary"),
        ({"wins": ["loss"]}, "promotion.wins.0: String should match pattern"),
        ({"wins": []}, "wins is empty; name a metric"),
        ({"wins": ["a/b", "a/b"]}, "wins names a metric twice"),
        ({"floors": {"battery": 1}}, "promotion.floors.battery"),
        ({"mode": "yes"}, "should be 'auto', 'approve' or 'never'"),
        ({"mode": False}, "YAML reads yes, no, on and off as true and false"),
        ({"alpha": 0}, "promotion.alpha: should be greater"),
        ({"resamples": 10}, "promotion.resamples: should be greater"),
    ],
)
def test_what_is_no_rule_is_refused_in_one_line(promotion, words):
    with pytest.raises(RecipeError) as caught:
        section(**promotion)
    message = str(caught.value)
    assert words in message
    assert "\n" not in message


JUDGE = {"url": "http://127.0.0.1:1/v1", "model": "m"}
MINE = [{"name": "mine", "path": "mine.jsonl"}]


@pytest.mark.parametrize(
    ("promotion", "evaluation"),
    [
        ({"wins": ["held_out/loss", "held_out/exact_match@mail"]}, {}),
        ({"wins": ["mine/passed"], "margins": {"mine/passed": "2σ"}}, {"suites": MINE}),
        ({"wins": ["held_out/preferred"]}, {"judge": JUDGE}),
        ({"wins": ["mine/judge"]}, {"judge": JUDGE, "suites": MINE}),
        ({"wins": ["mine/preferred"]}, {"judge": JUDGE | {"compare": ["mine"]}, "suites": MINE}),
        ({"floors": {"incidents/passed": 1, "held_out/refused": 0}}, {"incidents": "i.jsonl"}),
        ({"margins": {"preferred": 0.1, "held_out/loss@a/b@c": 0.1}}, {}),  # a judge may come
    ],
)
def test_a_rule_may_name_what_is_graded(promotion, evaluation):
    assert Recipe.parse(VALUES | {"promotion": promotion, "evaluation": evaluation})


@pytest.mark.parametrize(
    ("promotion", "evaluation", "words"),
    [
        ({"wins": ["held_out/preferred"]}, {}, "only an LLM judge grades by it"),
        ({"floors": {"battery/judge": 0.5}}, {}, "only an LLM judge grades by it"),
        (
            {"wins": ["battery/preferred"]},
            {"judge": JUDGE},
            "the judge does not compare battery; add it to evaluation.judge.compare",
        ),
        (
            {"wins": ["held_out/judge"]},
            {"judge": JUDGE},
            "no answer is graded by 'judge'; use loss,",
        ),
        (
            {"wins": ["heldout/loss"]},
            {},
            "'heldout' is no suite that is asked; use held_out, battery",
        ),
        ({"wins": ["held_out/refused"]}, {}, "it is better in neither direction"),
        (
            {"wins": ["held_out/accuracy"]},
            {},
            "no answer is graded by 'accuracy'; use loss, exact_",
        ),
        ({"wins": ["battery/loss"]}, {}, "no answer is graded by 'loss'; use passed, stopped"),
        ({"wins": ["battery/passed"]}, {"battery": False}, "'battery' is no suite that is asked"),
        (
            {"margins": {"mine/passed": 0.1}},
            {},
            "promotion.margins: 'mine/passed': 'mine' is no suite",
        ),
        ({"margins": {"los": 0.1}}, {}, "no answer is graded by 'los'; use loss"),
        ({"wins": ["incidents/passed"]}, {"incidents": "i.jsonl"}, "'incidents' is no suite"),
        ({"floors": {"incidents/passed": 1}}, {}, "'incidents' is no suite that is asked"),
    ],
)
def test_a_rule_by_what_nobody_grades_is_refused_before_anything_is_trained(
    promotion, evaluation, words
):
    with pytest.raises(RecipeError) as caught:
        Recipe.parse(VALUES | {"promotion": promotion, "evaluation": evaluation})
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_may_be_named_is_what_is_graded():
    assert {LOSS, EXACT_MATCH, STOPPED, REPETITIVE, REFUSED} == set(OF_HELD_OUT)
    assert {PASSED, STOPPED, REPETITIVE, REFUSED} == set(OF_PROBES)
    assert {JUDGED, PREFERRED} == set(OF_JUDGE)
    neither = {name for name in (*OF_HELD_OUT, *OF_PROBES, *OF_JUDGE) if not direction(name)}
    assert neither == set(NO_DIRECTION)
