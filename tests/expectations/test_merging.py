"""The judge of merge: each limit holds, and its severity is the recipe's."""

import math
from datetime import UTC, datetime

import pytest

from expectations.merging import GATE, judgement
from expectations.verdicts import Rejected, require
from retune.outputs import Step
from retune.recipe import Merging, Recipe
from retune.recipe.gates import EXPECTATIONS
from retune.records import Merged

GOOD = {
    "changed_share": 1.0,
    "kl_divergence": 0.01,
    "same_top_token": 0.97,
    "perplexity_ratio": 1.0,
}


def merged(**change: float) -> Merged:
    step = Step(stage="merge", key={})
    metrics = GOOD | {name.replace("_4bit", "/4bit"): value for name, value in change.items()}
    return Merged(step=step, started=datetime.now(UTC), seconds=0, metrics=metrics)


def recipe(severities=None, **merging) -> Recipe:
    return Recipe.parse(
        {
            "name": "r",
            "model": {"base": "b"},
            "dataset": {"source": "s"},
            "merging": merging,
            "gates": {"severities": severities or {}},
        }
    )


def failed(output: Merged, **merging) -> list[str]:
    return [verdict.name for verdict in judgement(output, recipe(**merging)).failed]


def test_a_checkpoint_near_to_what_was_trained_passes():
    require(judgement(merged(), recipe()))
    assert failed(merged(kl_divergence=0.05, same_top_token=0.8, perplexity_ratio=1.05)) == []


@pytest.mark.parametrize(
    ("name", "value", "setting"),
    [
        ("kl_divergence", 0.2, "merging.max_kl_divergence"),
        ("kl_divergence", math.nan, "merging.max_kl_divergence"),
        ("same_top_token", 0.7, "merging.min_same_top_token"),
        ("same_top_token", math.nan, "merging.min_same_top_token"),
        ("perplexity_ratio", 1.2, "merging.max_perplexity_ratio"),
        ("perplexity_ratio", math.nan, "merging.max_perplexity_ratio"),
    ],
)
def test_a_divergence_beyond_the_tolerance_is_refused(name, value, setting):
    judged = judgement(merged(**{name: value}), recipe())
    (verdict,) = judged.failed
    assert (verdict.name, verdict.setting) == (name, setting)
    assert verdict.limit == getattr(Merging(), setting.partition(".")[2])
    with pytest.raises(Rejected, match=rf"\({setting}\)\nThe update does not survive 16 bits"):
        require(judged)


def test_the_limits_are_the_recipes():
    assert failed(merged(kl_divergence=0.2), max_kl_divergence=0.3) == []
    assert failed(merged(kl_divergence=0.04), max_kl_divergence=0.03) == ["kl_divergence"]
    assert failed(merged(same_top_token=0.7), min_same_top_token=0.7) == []
    assert failed(merged(perplexity_ratio=1.2), max_perplexity_ratio=1.2) == []


def test_every_limit_that_failed_is_named_at_once():
    judged = judgement(
        merged(kl_divergence=0.2, same_top_token=0.7, perplexity_ratio=2.0), recipe()
    )
    with pytest.raises(Rejected) as caught:
        require(judged)
    message = str(caught.value)
    assert message.startswith("merged model rejected: 3 critical expectations failed\n")
    assert (
        "at most 0.05 nats per token; seen: 0.2 nats per token (merging.max_kl_divergence)"
        in message
    )
    assert "at least 80%; seen: 70.0% (merging.min_same_top_token)" in message
    assert "seen: 2 (merging.max_perplexity_ratio)" in message
    assert message.count("does not survive") == 1


def test_a_checkpoint_that_is_the_base_is_refused():
    with pytest.raises(Rejected, match=r"seen: 0\.0% of the trained tensors are others\nWhat was"):
        require(judgement(merged(changed_share=0.0), recipe()))
    assert failed(merged(changed_share=0.001)) == []


@pytest.mark.parametrize(
    "broken",
    [{"kl_divergence_4bit": 4.0}, {"kl_divergence_4bit": math.nan}, {"same_top_token_4bit": 0.1}],
    ids=str,
)
def test_a_broken_4bit_checkpoint_is_refused(broken):
    sound = {"kl_divergence_4bit": 0.3, "same_top_token_4bit": 0.8}
    assert failed(merged(**sound)) == []
    with pytest.raises(Rejected, match="4-bit checkpoint is broken"):
        require(judgement(merged(**sound | broken), recipe()))


def test_a_severity_of_the_recipe_counts():
    lenient = recipe({"merge.kl_divergence": "warning"})
    judged = judgement(merged(kl_divergence=0.2), lenient)
    require(judged)
    (verdict,) = [verdict for verdict in judged.verdicts if not verdict.passed]
    assert (verdict.name, verdict.severity, verdict.outcome) == (
        "kl_divergence",
        "warning",
        "failed",
    )
    with pytest.raises(Rejected, match="top token"):  # the others stay critical
        require(judgement(merged(kl_divergence=0.2, same_top_token=0.1), lenient))


def test_every_expectation_is_known_to_the_recipe():
    judged = judgement(merged(kl_divergence_4bit=0.3, same_top_token_4bit=0.8), recipe())
    assert tuple(verdict.name for verdict in judged.verdicts) == EXPECTATIONS[GATE]
