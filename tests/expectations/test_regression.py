"""The judge of evaluate: a tuned model that is worse than its base does not pass."""

import math
from datetime import UTC, datetime

import pytest

from expectations.regression import GATE, judgement
from expectations.verdicts import Judgement, Rejected, require
from retune.outputs import Step
from retune.recipe import Recipe
from retune.recipe.gates import EXPECTATIONS
from retune.records import Scores


def judged(base: float, tuned: float, limit: float = 1.0, severities=None) -> Judgement:
    scores = Scores(
        step=Step(stage="evaluate", key={}),
        started=datetime.now(UTC),
        seconds=0,
        metrics={"loss/base": base, "loss/tuned": tuned},
    )
    sections = {"evaluation": {"max_loss_ratio": limit}, "gates": {"severities": severities or {}}}
    recipe = {"name": "r", "model": {"base": "b"}, "dataset": {"source": "s"}} | sections
    return judgement(scores, Recipe.parse(recipe))


def test_a_regression_is_refused_with_its_numbers():
    require(judged(2.0, 2.2, limit=1.2))
    message = (
        r"at most 1 times.*2\.2000 against 2\.0000.*ratio of 1\.100 \(evaluation\.max_loss_ratio\)"
    )
    with pytest.raises(Rejected, match=message):
        require(judged(2.0, 2.2))
    with pytest.raises(Rejected, match=r"lower training\.learning_rate, or train on more"):
        require(judged(2.0, 2.2))


def test_a_model_that_is_no_worse_passes():
    require(judged(2.0, 2.0))
    require(judged(2.0, 0.1))
    require(judged(3.0, 3.0 * 1.1, limit=1.1))


@pytest.mark.parametrize("losses", [(2.0, math.nan), (math.nan, 2.0), (2.0, math.inf)])
def test_what_is_not_a_number_is_a_regression(losses):
    assert [verdict.name for verdict in judged(*losses).failed] == ["loss_ratio"]


def test_a_base_without_any_loss_cannot_be_divided_by():
    require(judged(0.0, 0.0))
    assert judged(0.0, 1.0).failed


def test_a_severity_of_the_recipe_counts():
    lenient = judged(2.0, 2.2, severities={"evaluate.loss_ratio": "warning"})
    require(lenient)
    (verdict,) = lenient.verdicts
    assert (verdict.passed, verdict.severity, verdict.outcome) == (False, "warning", "failed")
    assert EXPECTATIONS[GATE] == (verdict.name,)
