"""What determines fetch's output."""

from typing import Any

from retune.recipe import Recipe
from retune.recipe.flaws import OVERSIZED
from retune.recipe.origin import Origin
from retune.records import Pins

# The other limits end the reading; they change no row.
BUDGET = {"max_row_bytes", "max_row_values", "max_row_depth"}
# The pin stands for the revision.
ORIGIN = Origin.model_fields.keys() - {"revision"}


def key(recipe: Recipe, pins: Pins) -> dict[str, Any]:
    """Return the settings and inputs of fetch."""
    dataset = recipe.dataset
    settings = {"pin": pins.dataset, "oversized": OVERSIZED, **dataset.model_dump(include=BUDGET)}
    if not dataset.mix:
        return settings | dataset.model_dump(include={"source", *ORIGIN})
    parts = [part.model_dump(exclude={"revision"}) for part in dataset.mix]
    return settings | {"mix": parts, "mix_seed": dataset.mix_seed}
