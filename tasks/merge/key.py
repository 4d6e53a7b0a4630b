"""What determines merge's output."""

from typing import Any

from retune.outputs import Step
from retune.recipe import Recipe

LIMITS = {"max_kl_divergence", "min_same_top_token", "max_perplexity_ratio"}
SELECTED = {"onto", "base_16bit", "base_16bit_revision"}  # by select


def key(recipe: Recipe, adapter: Step, selection: Step | None) -> dict[str, Any]:
    """Return the settings and inputs of merge; those of the model are the adapter's, and those of
    the weights it is merged on the selection's."""
    return {
        "adapter": adapter.fingerprint,
        "selection": selection and selection.fingerprint,
        **recipe.merging.model_dump(exclude=LIMITS | SELECTED),
    }
