"""How transformers names a model's tensors in files, where it holds them in memory in another form.

In memory the experts of a layer are one tensor; in files they are one per expert, so that programs
that know the model from before can read it.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    Tensors = Mapping[str, torch.Tensor]


def as_saved(model: "PreTrainedModel", tensors: "Tensors") -> "dict[str, torch.Tensor]":
    """Return tensors of a model, on the meta device, by their names and in their shapes in files.

    The files are those of the model without quantization: of a base that is stored in few bits,
    transformers remembers conversions that cannot be reverted.
    """
    from transformers.core_model_loading import revert_weight_conversion

    state: Any = model
    remembered = getattr(state, "_weight_conversions", None)
    state._weight_conversions = None
    try:
        return revert_weight_conversion(model, dict(tensors))
    finally:
        state._weight_conversions = remembered


def names_in_files(model: "PreTrainedModel", tensors: "Tensors") -> dict[str, str]:
    """Return the names in files of those tensors that are the same there: not joined, split or turned."""
    names = {id(tensor): name for name, tensor in tensors.items()}
    return {
        names[id(tensor)]: saved
        for saved, tensor in as_saved(model, tensors).items()
        if id(tensor) in names
    }
