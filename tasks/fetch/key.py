"""What determines fetch's output."""

from typing import Any

from retune.recipe import Recipe
from retune.recipe.flaws import OVERSIZED
from retune.recipe.mapping import ColumnMapping
from retune.records import Pins
from tasks.fetch.shape import KNOWN_COLUMNS, KNOWN_KEYS
from tasks.fetch.turns import KEYS_OF_ROUNDS

# The other limits end the reading; they change no row.
BUDGET = {"max_row_bytes", "max_row_values", "max_row_depth"}
# The pin stands for the revision.
READING = ColumnMapping.model_fields.keys() - {"revision", "ignore"}
SIZE = {"source", "name", "rows", "weight"}  # of a part of a mix


def key(recipe: Recipe, pins: Pins) -> dict[str, Any]:
    """Return the settings and inputs of fetch."""
    dataset = recipe.dataset
    settings = {"pin": pins.dataset, "oversized": OVERSIZED, **dataset.model_dump(include=BUDGET)}
    if not dataset.mix:
        return settings | _of_source(dataset) | {"source": dataset.source}
    parts = [part.model_dump(include=SIZE) | _of_source(part) for part in dataset.mix]
    return settings | {"mix": parts, "mix_seed": dataset.mix_seed}


def _of_source(source: ColumnMapping) -> dict[str, Any]:
    """Return what decides how a source is read; names to ignore that mean nothing to the reader are the
    judge's alone."""
    known = KNOWN_KEYS | KNOWN_COLUMNS | set(source.columns.values())
    names = [n for n in source.ignore if n in KEYS_OF_ROUNDS or {n, n.lower()} & known]
    return source.model_dump(include=READING) | {"ignore": sorted(names)}
