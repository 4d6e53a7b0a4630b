"""What determines fetch's output."""

from typing import Any

from retune.recipe import Recipe
from retune.recipe.flaws import OVERSIZED
from retune.records import Pins
from tasks.fetch.shape import KNOWN_COLUMNS, KNOWN_KEYS

SHAPE = {"columns", "roles", "mid_system"}
# The other limits end the reading; they change no row.
BUDGET = {"max_row_bytes", "max_row_values", "max_row_depth"}


def key(recipe: Recipe, pins: Pins) -> dict[str, Any]:
    """Return the settings and inputs of fetch."""
    dataset = recipe.dataset.model_dump(include={"source", "subset", "split", *SHAPE, *BUDGET})
    # Names that mean nothing to the reader are the judge's alone.
    read = [n for n in recipe.dataset.ignore if n in KNOWN_KEYS or n.lower() in KNOWN_COLUMNS]
    return {"pin": pins.dataset, "oversized": OVERSIZED, "ignore": sorted(read), **dataset}
