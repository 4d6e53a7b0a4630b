"""What determines fetch's output."""

from typing import Any

from retune.recipe import Recipe
from retune.recipe.flaws import OVERSIZED
from retune.records import Pins

# The other limits end the reading; they change no row.
BUDGET = {"max_row_bytes", "max_row_values", "max_row_depth"}


def key(recipe: Recipe, pins: Pins) -> dict[str, Any]:
    """Return the settings and inputs of fetch."""
    dataset = recipe.dataset.model_dump(include={"source", "subset", "split", *BUDGET})
    return {"pin": pins.dataset, "oversized": OVERSIZED, **dataset}
