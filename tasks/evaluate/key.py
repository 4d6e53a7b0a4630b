"""What determines evaluate's outputs."""

from typing import Any

from retune.recipe import Recipe
from retune.records import Pins
from retune.workspace import Step

LIMITS = {"max_loss_ratio"}
RUNNING = {"batch_size", "samples"}  # how many at a time, and how many are shown


def select(recipe: Recipe, pins: Pins, adapter: Step) -> dict[str, Any]:
    """Return the settings and inputs of select; those of the model are the adapter's."""
    return {
        "adapter": adapter.fingerprint,
        "base_16bit": pins.base_16bit,
        "onto": recipe.merging.onto,
        "check_rows": recipe.merging.check_rows,
        "loss_rows": recipe.evaluation.loss_rows,
    }


def evaluate(recipe: Recipe, adapter: Step, selection: Step | None) -> dict[str, Any]:
    """Return the settings and inputs of evaluate; those of the weights are the selection's."""
    return {
        "adapter": adapter.fingerprint,
        "selection": selection and selection.fingerprint,
        **recipe.evaluation.model_dump(exclude=LIMITS | RUNNING),
    }
