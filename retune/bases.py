"""The bases of a recipe: the one that is trained on, and the 16-bit original of its 4-bit weights."""

from collections.abc import Iterator
from contextlib import contextmanager

from retune.original import Original
from retune.recipe import Recipe
from retune.records import Pins, Selection
from retune.sources import unchanged


def original_of(recipe: Recipe, pins: Pins) -> Original:
    """Return the 16-bit weights: what `merging.base_16bit` names, else the base's own."""
    merging = recipe.merging
    if merging.base_16bit and pins.base_16bit:
        name, pin, setting = merging.base_16bit, pins.base_16bit, "merging.base_16bit"
    else:
        name, pin, setting = recipe.model.base, pins.model, "model.base"
    return Original(name=name, revision=pins.commit(pin), setting=setting)


def selected(selection: Selection | None, recipe: Recipe, pins: Pins) -> Original | None:
    """Return the original that the adapter is put on; None: it stays on what it was trained on."""
    chosen = selection is not None and selection.onto == "16bit"
    return original_of(recipe, pins) if chosen else None


def on_hub(revision: str | None, original: Original | None) -> bool:
    """Tell whether a base at `revision`, or its original, is the Hub's: what loads them needs it."""
    return bool(revision or (original and original.revision))


@contextmanager
def bases_unchanged(recipe: Recipe, pins: Pins) -> Iterator[None]:
    """Hold both to what was pinned while they are read, see `retune.sources.unchanged`."""
    with (
        unchanged(recipe.model.base, pins.model, "model.base"),
        unchanged(recipe.merging.base_16bit, pins.base_16bit, "merging.base_16bit"),
    ):
        yield
