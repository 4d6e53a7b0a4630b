"""The judge of merge: the merged checkpoint is the model that was evaluated."""

from expectations.verdicts import Judgement, Verdict, at_least, at_most, severity, within
from retune.recipe import Quantization, Recipe
from retune.records import Merged

GATE = "merge"
SURVIVES = (
    "The update does not survive 16 bits: train with a lower training.learning_rate, or raise the "
    "limit."
)


# By the measure, which is the verdict's name: what was measured, and the setting with its limit.
LIMITS = {
    "kl_divergence": ("KL divergence from the evaluated model", "max_kl_divergence"),
    "same_top_token": ("same top token as the evaluated model for", "min_same_top_token"),
    "perplexity_ratio": ("perplexity over that of the evaluated model", "max_perplexity_ratio"),
}


def judgement(merged: Merged, recipe: Recipe) -> Judgement:
    """Return the verdicts on the 16-bit checkpoint and, if there is one, on the 4-bit one."""
    metrics = merged.metrics
    verdicts = [_changed(metrics["changed_share"], recipe)]
    for name, (subject, key) in LIMITS.items():
        limit, setting = getattr(recipe.merging, key), f"merging.{key}"
        verdicts.append(
            within(GATE, name, subject, metrics[name], limit, setting, recipe, SURVIVES)
        )
    if "kl_divergence/4bit" in metrics:
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


def _four_bit(metrics: dict[str, float], recipe: Recipe) -> Verdict:
    """A broken NF4 checkpoint is farther off than a 2-bit file may be.

    How much NF4 loses depends on the model's size, and whoever asks for it accepts that; nothing
    intact loses what llama.cpp loses with half the bits.
    """
    loosest = Quantization().gate("q2_k")
    kl, same_top = metrics["kl_divergence/4bit"], metrics["same_top_token/4bit"]
    max_kl, min_same_top = loosest.max_kl_divergence, loosest.min_same_top_token
    assert max_kl is not None  # `gate` fills in every limit
    assert min_same_top is not None
    return Verdict(
        gate=GATE,
        name="4bit",
        expected=f"the 4-bit checkpoint is as near as a 2-bit file has to be: KL divergence at most "
        f"{max_kl:g} nats per token, same top token for at least "
        f"{min_same_top:.0%}",
        seen=f"KL divergence {kl:.4g}, same top token for {same_top:.1%}",
        severity=severity(recipe, GATE, "4bit"),
        passed=at_most(kl, max_kl) and at_least(same_top, min_same_top),
        fix="The 4-bit checkpoint is broken: set merging.save_method=merged_16bit.",
    )
