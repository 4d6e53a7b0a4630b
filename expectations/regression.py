"""The judge of evaluate: the tuned model is no worse than its base."""

import math

from expectations.verdicts import Judgement, Verdict, at_most, severity
from retune.recipe import Recipe
from retune.records import Scores

GATE = "evaluate"


def judgement(scores: Scores, recipe: Recipe) -> Judgement:
    """Return the verdict on the held-out losses (nats per token) of base and tuned model."""
    base, tuned = scores.metrics["loss/base"], scores.metrics["loss/tuned"]
    limit = recipe.evaluation.max_loss_ratio
    ratio = tuned / base if base else math.inf
    verdict = Verdict(
        gate=GATE,
        name="loss_ratio",
        expected=f"a held-out loss of the tuned model of at most {limit:g} times its base's",
        seen=f"{tuned:.4f} against {base:.4f}, a ratio of {ratio:.3f}",
        limit=limit,
        setting="evaluation.max_loss_ratio",
        severity=severity(recipe, GATE, "loss_ratio"),
        passed=at_most(tuned, base * limit),
        fix="The tuned model is worse than its base: lower training.learning_rate, or train on more or "
        "better rows.",
    )
    return Judgement(GATE, "tuned model", (verdict,))
