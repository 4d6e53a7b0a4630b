"""A frozen layer and its adapter in one function, forward and backward, with few passes over memory.

PEFT copies the layer's output, scales the adapter's and adds both, which for a model of 8B is a tenth of
a training step (H200): here the adapter's product is written first, and the layer's own is added to
it as it is computed. The arithmetic is the same, in the same precision.
"""

from typing import Any, NamedTuple, Protocol

import torch

Matrix = torch.Tensor


class Frozen(Protocol):
    """A weight of shape (outputs, inputs) that does not learn."""

    def product(self, x: Matrix, inner: Matrix, outer: Matrix) -> Matrix:
        """Return x @ weight.T + inner @ outer, for x of shape (tokens, inputs), `inner` of (tokens,
        rank) and `outer` of (rank, outputs)."""

    def transposed(self, gradient: Matrix, inner: Matrix, outer: Matrix) -> Matrix:
        """Return gradient @ weight + inner @ outer, for a gradient of shape (tokens, outputs) and
        `outer` of (rank, inputs)."""


class ExactWeight:
    """The weight of a linear layer as it is, or as it comes out of 4 bits."""

    def __init__(self, layer: torch.nn.Module) -> None:
        self._layer = layer
        self._kept: Matrix | None = None

    @property
    def dequantized_bytes(self) -> int:
        """How much memory `keep_dequantized` takes."""
        state = getattr(self._layer.weight, "quant_state", None)
        return 0 if state is None else state.shape.numel() * state.dtype.itemsize

    def keep_dequantized(self) -> None:
        """Keep a weight of 4 bits as the 16 bits, too, that each pass would make of it twice."""
        if self.dequantized_bytes:
            weight: Any = self._layer.weight
            self._kept = self._weight(weight.quant_state.dtype)

    def drop(self) -> None:
        """Let go of what `keep_dequantized` kept."""
        self._kept = None

    def product(self, x: Matrix, inner: Matrix, outer: Matrix) -> Matrix:
        return (inner @ outer).addmm_(x, self._weight(x.dtype).t())

    def transposed(self, gradient: Matrix, inner: Matrix, outer: Matrix) -> Matrix:
        return (inner @ outer).addmm_(gradient, self._weight(gradient.dtype))

    def _weight(self, dtype: torch.dtype) -> Matrix:
        if self._kept is not None:
            return self._kept.to(dtype)
        weight: Any = self._layer.weight
        if (state := getattr(weight, "quant_state", None)) is None:
            return weight.detach().to(dtype)
        from bitsandbytes.functional import dequantize_4bit

        return dequantize_4bit(weight.data, state).to(dtype)


class Fixed(NamedTuple):
    """What a layer has that does not learn: its weight and bias, and the adapter's scale."""

    weight: Frozen
    bias: Matrix | None
    scale: float


def fuse_adapters(model: torch.nn.Module) -> int:
    """Let the plain LoRA layers of `model` train by `Adapted`, and return how many do.

    Others stay PEFT's: with dropout, DoRA or a bias of their own, or on what is no linear layer
    of 16 or 4 bits. Without autocast and outside of training all are PEFT's.
    """
    from peft.tuners.lora import LoraLayer

    layers = [m for m in model.modules() if isinstance(m, LoraLayer) and _is_plain(m)]
    for layer in layers:
        _replace(layer)
    return len(layers)


def exact_weights(model: torch.nn.Module) -> list[ExactWeight]:
    """Return the weights below the fused adapters of `model` that are multiplied as they are."""
    frozen = (getattr(module, "frozen", None) for module in model.modules())
    return [weight for weight in frozen if isinstance(weight, ExactWeight)]


def _is_plain(layer: Any) -> bool:
    base, name = layer.base_layer, next(iter(layer.lora_A), None)
    return (
        (type(base) is torch.nn.Linear or type(base).__name__ == "Linear4bit")
        and len(layer.lora_A) == 1
        and not base.weight.requires_grad
        and not layer.lora_variant
        and isinstance(layer.lora_dropout[name], torch.nn.Identity)
        and layer.lora_A[name].bias is None
        and layer.lora_B[name].bias is None
    )


def _replace(layer: Any) -> None:
    by_peft, base, name = layer.forward, layer.base_layer, next(iter(layer.lora_A))
    weight = getattr(base, "fp8", None) or ExactWeight(base)
    down, up, scale = layer.lora_A[name], layer.lora_B[name], layer.scaling[name]

    def forward(x: Matrix, *args: Any, **kwargs: Any) -> Matrix:
        kind = x.device.type
        plain = layer.training and not (args or kwargs or layer.disable_adapters or layer.merged)
        if not plain or not torch.is_autocast_enabled(kind):
            return by_peft(x, *args, **kwargs)
        x = x.to(torch.get_autocast_dtype(kind))
        return Adapted.apply(x, down.weight, up.weight, Fixed(weight, base.bias, scale))

    layer.forward, layer.frozen = forward, weight


class Adapted(torch.autograd.Function):
    """x @ weight.T + bias + scale * x @ down.T @ up.T, for x of shape (..., inputs) in 16 bits, `down`
    of shape (rank, inputs) and `up` of (outputs, rank), which learn in their own precision."""

    @staticmethod
    def forward(ctx: Any, x: Matrix, down: Matrix, up: Matrix, fixed: Fixed) -> Matrix:
        rows = x.reshape(-1, x.shape[-1])
        narrow, wide = down.to(x.dtype), up.to(x.dtype)
        scaled = rows @ narrow.t() * fixed.scale
        output = fixed.weight.product(rows, scaled, wide.t())
        if fixed.bias is not None:
            output += fixed.bias.to(x.dtype)
        ctx.save_for_backward(x, scaled, narrow, wide)
        ctx.fixed, ctx.precision = fixed, (down.dtype, up.dtype)
        return output.view(*x.shape[:-1], output.shape[-1])

    @staticmethod
    def backward(ctx: Any, gradient: Matrix) -> tuple[Matrix | None, Matrix, Matrix, None]:
        x, scaled, narrow, wide = ctx.saved_tensors
        rows, came = x.reshape(-1, x.shape[-1]), gradient.reshape(-1, gradient.shape[-1])
        inner = came @ wide * ctx.fixed.scale
        of_down, of_up = inner.t() @ rows, came.t() @ scaled
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = ctx.fixed.weight.transposed(came, inner, narrow).view_as(x)
        return of_x, of_down.to(ctx.precision[0]), of_up.to(ctx.precision[1]), None
