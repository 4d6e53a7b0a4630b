"""What determines select's output."""

from typing import Any

from retune.outputs import Step
from retune.recipe import Recipe
from retune.records import Pins


def key(recipe: Recipe, pins: Pins, adapter: Step) -> dict[str, Any]:
    """Return the settings and inputs of select; those of the model are the adapter's."""
    measured = {
        "check_rows": recipe.merging.check_rows,
        "loss_rows": recipe.evaluation.loss_rows,
    }
    return {
        "adapter": adapter.fingerprint,
        "base_16bit": pins.base_16bit,
        "onto": recipe.merging.onto,
        **(measured if recipe.merging.onto == "best" else {}),
    }
