"""What determines merge's output."""

from typing import Any

from retune.recipe import Recipe
from retune.records import Pins
from retune.workspace import Step

LIMITS = {"max_kl_divergence", "min_same_top_token", "max_perplexity_ratio"}
PINNED = {"base_16bit", "base_16bit_revision"}


def key(recipe: Recipe, pins: Pins, adapter: Step) -> dict[str, Any]:
    """Return the settings and inputs of merge; those of the model are the adapter's."""
    return {
        "adapter": adapter.fingerprint,
        "base_16bit": pins.base_16bit,
        **recipe.merging.model_dump(exclude=LIMITS | PINNED),
    }
