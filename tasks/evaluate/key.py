"""What determines evaluate's output."""

from typing import Any

from retune.recipe import Recipe
from retune.workspace import Step

LIMITS = {"max_loss_ratio"}
RUNNING = {"batch_size", "samples"}  # how many at a time, and how many are shown


def key(recipe: Recipe, adapter: Step, selection: Step | None) -> dict[str, Any]:
    """Return the settings and inputs of evaluate; those of the weights are the selection's."""
    return {
        "adapter": adapter.fingerprint,
        "selection": selection and selection.fingerprint,
        **recipe.evaluation.model_dump(exclude=LIMITS | RUNNING),
    }
