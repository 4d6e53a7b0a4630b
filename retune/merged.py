"""A tuned model as it ships: its adapter merged, in memory, into weights of 16 bits.

A layer with an adapter starts nine kernels where a plain one starts one, and unpacks 4-bit weights anew
for each token. On a GPU, where generation waits for the CPU, an answer takes a third of the time without
(see `benchmarks.evaluate`). For child processes; imports torch and transformers where they are used.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from retune.models import is_adapter, is_quantized, load_base, load_plain, with_adapter
from retune.original import Original
from retune.room import misfit, parameters_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from retune.recipe import Model

# The weights take at most one part of so many of the free memory: the rest is for keys and values.
PARTS = 2


def load_unpacked(
    model: "Model", revision: str | None, tokenizer: Path, original: Original | None = None
) -> "PreTrainedModel":
    """Return the base as `retune.models.load_base` does, its 4-bit weights as the numbers that they
    represent in 16 bits, if these fit; otherwise in 4 bits."""
    base = load_base(model, revision, tokenizer, original)
    in_4bit = getattr(base, "is_loaded_in_4bit", False)
    if not in_4bit or misfit(PARTS * parameters_of(model.base, revision)):
        return base
    return base.dequantize(base.dtype)


def merge(base: "PreTrainedModel", adapter: Path) -> Any:
    """Return `base` with the adapter in its weights; of 4-bit weights, which would be rounded again, a
    PeftModel that has it beside them. `base` is not the base any more. Raises AdapterMismatch."""
    tuned = with_adapter(base, adapter)
    return tuned if is_quantized(base.config) else tuned.merge_and_unload().eval()


def load_merged(
    model: "Model", revision: str | None, trained: Path, original: Original | None = None
) -> Any:
    """Return what was trained, ready for inference: the adapter in `trained` merged into its base, or
    into the `original` of that, or the whole checkpoint there. Raises AdapterMismatch."""
    if is_adapter(trained):
        return merge(load_unpacked(model, revision, trained, original), trained)
    return load_plain(trained)
