"""Matrix products with a frozen base in FP8, forward and backward, while an adapter trains.

A GPU multiplies 8-bit floats nearly twice as fast as bf16. Activations and gradients are rounded row by
row as they come, the weights once: by output for the forward pass, by input for the backward one. What
learns stays as it is, and outside of training (held-out loss) so does the base. torchao's float8 layers
are no help here: they round the weights anew at each pass, and know no base of 4 bits.
"""

from typing import Any, NamedTuple, cast

import torch
from torch.nn.functional import ScalingType, scaled_mm

from tasks.train.job import TrainingRefused

# 3 bits of mantissa; with a scale for each row gradients need no more range.
FORMAT = torch.float8_e4m3fn
LARGEST = torch.finfo(FORMAT).max
SMALLEST = 1e-12  # a row's largest value, at least: one of zeros has a scale, too
MULTIPLE = 16  # of both dimensions of a weight, or cuBLAS does not take it


class Rounded(NamedTuple):
    """A matrix in FP8 with the factor of each of its rows, float32 of shape (rows, 1)."""

    values: torch.Tensor
    scales: torch.Tensor


class Weights(NamedTuple):
    """A weight of shape (outputs, inputs), and its transpose: each is rounded by its rows. With an
    adapter beside it, it is the `adapted.Frozen` of its layer."""

    forward: Rounded
    backward: Rounded

    def product(self, x: torch.Tensor, inner: torch.Tensor, outer: torch.Tensor) -> torch.Tensor:
        return _product(x, self.forward).addmm_(inner, outer)

    def transposed(
        self, gradient: torch.Tensor, inner: torch.Tensor, outer: torch.Tensor
    ) -> torch.Tensor:
        return _product(gradient, self.backward).addmm_(inner, outer)


def multiply_in_fp8(model: torch.nn.Module) -> int:
    """Let the frozen layers below the adapters of `model` multiply in FP8, and return how many do.

    They take another two bytes for each weight. Layers of odd dimensions stay exact. Raises
    TrainingRefused if there is none.
    """
    from peft.tuners.lora import LoraLayer

    layers = [
        module.base_layer
        for module in model.modules()
        if isinstance(module, LoraLayer) and _fits(module.base_layer)
    ]
    if not layers:
        raise TrainingRefused(
            "training.fp8=true finds no layer to multiply: below the adapters none is in 4 or 16 bits "
            "with dimensions that are multiples of 16; set training.fp8=false"
        )
    for layer in layers:
        _replace(cast("torch.nn.Linear", layer))
    return len(layers)


def rounded(matrix: torch.Tensor) -> Rounded:
    """Return a contiguous matrix of shape (rows, columns) with each row's largest value at FP8's end."""
    if matrix.is_cuda:
        from tasks.train.fp8_kernel import round_rows

        return Rounded(*round_rows(matrix))
    scales = matrix.float().abs().amax(-1, keepdim=True).clamp(min=SMALLEST) / LARGEST
    return Rounded((matrix.float() / scales).to(FORMAT), scales)


def weights_of(weight: torch.Tensor) -> Weights:
    """Return a weight of shape (outputs, inputs) for both directions."""
    return Weights(rounded(weight), rounded(weight.t().contiguous()))


def _fits(layer: Any) -> bool:
    return (
        # Others keep their weights in forms of their own, as bases of 8 bits do.
        (type(layer) is torch.nn.Linear or type(layer).__name__ == "Linear4bit")
        and not layer.weight.requires_grad
        and not (layer.in_features % MULTIPLE or layer.out_features % MULTIPLE)
    )


def _replace(layer: torch.nn.Linear) -> None:
    exact, weights = layer.forward, weights_of(_dense(layer))

    def forward(x: torch.Tensor) -> torch.Tensor:
        if not layer.training:
            return exact(x)
        product = cast("torch.Tensor", Product.apply(x, weights))
        return product if layer.bias is None else product + layer.bias

    cast("Any", layer).forward = forward
    cast("Any", layer).fp8 = weights  # for `adapted.fuse_adapters`


def _dense(layer: torch.nn.Linear) -> torch.Tensor:
    """Return the weight of a layer as bf16, also of one in 4 bits."""
    weight = layer.weight.data
    if (state := getattr(layer.weight, "quant_state", None)) is not None:
        from bitsandbytes.functional import dequantize_4bit

        weight = dequantize_4bit(weight, state)
    return weight.to(torch.bfloat16)


class Product(torch.autograd.Function):
    """x @ weight.T in FP8, for x of shape (..., inputs), with the gradient of x alone."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weights: Weights) -> torch.Tensor:
        ctx.weights = weights
        return _product(x, weights.forward)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _product(gradient, ctx.weights.backward), None


def _product(x: torch.Tensor, by: Rounded) -> torch.Tensor:
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    values, scales = rounded(rows)
    product = scaled_mm(
        values,
        by.values.t(),
        scales,
        ScalingType.RowWise,
        by.scales.t(),
        ScalingType.RowWise,
        output_dtype=torch.bfloat16,
        use_fast_accum=True,
    )
    return product.reshape(*x.shape[:-1], product.shape[-1])
