"""What determines rehearse's output."""

from typing import Any

from retune.outputs import Step
from retune.recipe import Recipe

# What decides which tensors are trained, and how they become weights.
DECIDING = {"method", "master_weights", "target_modules", "use_rslora", "use_dora"}


def key(recipe: Recipe, conformance: Step) -> dict[str, Any]:
    """Return the settings and inputs of rehearse."""
    return {
        "conform": conformance.fingerprint,
        "makes_gguf": recipe.makes_gguf,
        **recipe.training.model_dump(include=DECIDING),
    }
