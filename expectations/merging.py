"""The judge of merge: the merged checkpoint is what was trained."""

from typing import NamedTuple

from expectations.verdicts import Judgement, Verdict, at_least, at_most, severity
from retune.config import Quantization, Recipe
from retune.records import Merged

GATE = "merge"
SURVIVES = (
    "The update does not survive 16 bits: train with a lower training.learning_rate, or raise the "
    "limit."
)


class _Limit(NamedTuple):
    name: str
    words: str
    value: str  # how it is written
    setting: str
    least: bool = False


LIMITS = (
    _Limit("kl", "KL divergence from what was trained", "{:.4g} nats per token", "max_kl"),
    _Limit(
        "top1_agreement",
        "same top token as what was trained for",
        "{:.1%}",
        "min_top1_agreement",
        True,
    ),
    _Limit(
        "perplexity_ratio",
        "perplexity over that of what was trained",
        "{:.4g}",
        "max_perplexity_ratio",
    ),
)


def judgement(merged: Merged, recipe: Recipe) -> Judgement:
    """Return the verdicts on the 16-bit checkpoint and, if there is one, on the 4-bit one."""
    metrics = merged.metrics
    verdicts = [_changed(metrics["changed_share"], recipe)]
    verdicts += [_within(limit, metrics[limit.name], recipe) for limit in LIMITS]
    if "kl/4bit" in metrics:
        verdicts.append(_four_bit(metrics, recipe))
    return Judgement(GATE, "merged model", verdicts)


def _changed(share: float, recipe: Recipe) -> Verdict:
    return Verdict(
        gate=GATE,
        name="changed_share",
        expected="what was trained changes the base model's weights at 16 bits",
        seen=f"{share:.1%} of the trained tensors are others",
        severity=severity(recipe, GATE, "changed_share"),
        passed=share > 0,
        fix="What was trained changes nothing at 16 bits: train for more steps or raise "
        "training.learning_rate.",
    )


def _within(limit: _Limit, value: float, recipe: Recipe) -> Verdict:
    bound = getattr(recipe.merging, limit.setting)
    words = "at least" if limit.least else "at most"
    return Verdict(
        gate=GATE,
        name=limit.name,
        expected=f"{limit.words} {words} {limit.value.format(bound)}",
        seen=limit.value.format(value),
        limit=bound,
        setting=f"merging.{limit.setting}",
        severity=severity(recipe, GATE, limit.name),
        passed=(at_least if limit.least else at_most)(value, bound),
        fix=SURVIVES,
    )


def _four_bit(metrics: dict[str, float], recipe: Recipe) -> Verdict:
    """A broken NF4 checkpoint is farther off than a 2-bit file may be.

    How much NF4 loses depends on the model's size, and whoever asks for it accepts that; nothing
    intact loses what llama.cpp loses with half the bits.
    """
    loosest = Quantization().gate("q2_k")
    kl, same = metrics["kl/4bit"], metrics["top1_agreement/4bit"]
    most, least = loosest.max_kl_divergence, loosest.min_same_top_token
    assert most is not None  # `gate` fills in every limit
    assert least is not None
    return Verdict(
        gate=GATE,
        name="4bit",
        expected=f"the 4-bit checkpoint is as near as a 2-bit file has to be: KL divergence at most "
        f"{most:g} nats per token, same top token for at least "
        f"{least:.0%}",
        seen=f"KL divergence {kl:.4g}, same top token for {same:.1%}",
        severity=severity(recipe, GATE, "4bit"),
        passed=at_most(kl, most) and at_least(same, least),
        fix="The 4-bit checkpoint is broken: set merging.save_method=merged_16bit.",
    )
