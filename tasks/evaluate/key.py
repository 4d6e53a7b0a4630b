"""What determines evaluate's output."""

from typing import Any

from retune.recipe import Recipe
from retune.records import Pins
from retune.workspace import Step

LIMITS = {"max_loss_ratio"}
RUNNING = {"batch_size", "samples"}  # how many at a time, and how many are shown


def key(recipe: Recipe, pins: Pins, adapter: Step) -> dict[str, Any]:
    """Return the settings and inputs of evaluate; those of the model are the adapter's."""
    return {
        "adapter": adapter.fingerprint,
        **recipe.evaluation.model_dump(exclude=LIMITS | RUNNING),
    }
