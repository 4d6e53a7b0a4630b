"""The section `promotion` of a recipe."""

import pytest

from retune.recipe import Promotion, Recipe, RecipeError

VALUES = {"name": "sums", "model": {"base": "b"}, "dataset": {"source": "d.jsonl"}}


def section(**promotion) -> Promotion:
    return Recipe.parse(VALUES | {"promotion": promotion}).promotion


def test_a_margin_is_a_number_or_a_multiple_of_the_noise():
    config = section(margins={"a/loss": "2σ", "loss": "1.5 sigma", "passed": 0.1, "stopped": "0.2"})
    assert config.multiples == {"a/loss": 2.0, "loss": 1.5}
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
