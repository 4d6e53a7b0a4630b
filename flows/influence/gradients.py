"""The gradient of one row in a few thousand numbers; torch is imported where it is used."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from retune.labels import IGNORED
from retune.models import device, padded

if TYPE_CHECKING:
    import torch


class Sketch:
    """A random projection that keeps cosines: a count sketch (Charikar 2002), which adds each number,
    with a sign drawn for it, to one of `dimensions` sums.

    The dot product of two sketches is right on average, and its error the size of that of a dense
    projection, |a| |b| / √dimensions; it takes one pass over a gradient, where a dense one would need a
    matrix of `dimensions` times the adapter. What is drawn depends on `seed` alone.
    """

    def __init__(
        self, parameters: Sequence["torch.Tensor"], dimensions: int, seed: int, device: str
    ) -> None:
        import torch

        draw = torch.Generator().manual_seed(seed)  # of the CPU's: the same on every machine
        self._dimensions = dimensions
        self._places, self._signs = [], []
        for parameter in parameters:
            size = (parameter.numel(),)
            places = torch.randint(dimensions, size, generator=draw, dtype=torch.int32)
            signs = torch.randint(2, size, generator=draw, dtype=torch.int8) * 2 - 1
            self._places.append(places.to(device))
            self._signs.append(signs.to(device))

    def of(self, gradients: Sequence["torch.Tensor | None"]) -> "torch.Tensor":
        """Return the sketch of one gradient per parameter; None counts as zeros."""
        import torch

        sums = torch.zeros(self._dimensions, device=self._places[0].device)
        for gradient, places, signs in zip(gradients, self._places, self._signs, strict=True):
            if gradient is not None:
                sums.index_add_(0, places, gradient.flatten().float() * signs)
        return sums


class RowGradients:
    """The gradients of a model's adapter for one row after another.

    One row at a time: autograd adds up the gradients of a batch, and what is wanted is each by itself.
    So no more memory is taken than training takes for its longest row.
    """

    def __init__(self, model: Any, pad: int, dimensions: int, seed: int) -> None:
        self._model, self._pad = model, pad
        self._parameters = adapter_parameters(model)
        self._sketch = Sketch(self._parameters, dimensions, seed, device())
        if device() == "cuda":
            _recompute(model)

    def unit(self, ids: list[int], labels: list[int]) -> "torch.Tensor | None":
        """Return the sketched gradient of a row's mean loss per learned token, of length 1.

        None of a row without anything to learn, or whose gradient is zero or not finite.
        """
        import torch

        loss = self._loss(ids, labels)
        if loss is None:
            return None
        gradients = torch.autograd.grad(loss, self._parameters, allow_unused=True)
        return unit(self._sketch.of(gradients))

    def _loss(self, ids: list[int], labels: list[int]) -> "torch.Tensor | None":
        import torch
        from torch.nn.functional import cross_entropy

        targets = torch.tensor(labels[1:], device=device())
        learned = targets != IGNORED
        if not learned.any():
            return None
        logits = self._model(**padded([ids], self._pad), use_cache=False).logits[0, :-1]
        # In 32 bits only where something is learned: logits of a whole row can be larger than a model.
        return cross_entropy(logits[learned].float(), targets[learned])


def adapter_parameters(model: Any) -> list["torch.Tensor"]:
    """Return LoRA's matrices of a PEFT model, and let gradients be taken of these alone."""
    parameters = []
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)
        if parameter.requires_grad:
            parameters.append(parameter)
    return parameters


def unit(vector: "torch.Tensor") -> "torch.Tensor | None":
    """Return a vector of length 1 in the direction of `vector`, None if it has none."""
    length = vector.norm()
    return vector / length if length.isfinite() and length > 0 else None


def _recompute(model: Any) -> None:
    """Compute a layer's inside anew in the backward pass, as training does, to hold less meanwhile.

    transformers does so in training mode only, in which a dropout would blur the gradients: the layers
    alone are told so, and what is in them is not.
    """
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for module in model.modules():
        if getattr(module, "gradient_checkpointing", False):
            module.training = True
