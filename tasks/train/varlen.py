"""Attention over conversations of any lengths laid into one row, with PyTorch's own kernel.

PyTorch carries FlashAttention 2's variable-length kernel (`aten::_flash_attention_forward`); it
takes the conversations' borders, so none attends to another, needs no mask, and reads grouped
key/value heads as they are. Dao 2023, FlashAttention-2.
"""

from typing import Any

import torch

from retune.models import compute_dtype
from tasks.train.job import TrainingRefused

NAME = "retune_varlen"


class _Varlen(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        borders: torch.Tensor,
        longest: int,
        scale: float | None,
        left: int,
    ) -> torch.Tensor:
        output, lse, seed, offset, _ = torch.ops.aten._flash_attention_forward(
            *(query, key, value, borders, borders, longest, longest, 0.0, left < 0, False),
            **_window(scale, left),
        )
        ctx.save_for_backward(query, key, value, output, lse, borders, seed, offset)
        ctx.longest, ctx.scale, ctx.left = longest, scale, left
        return output

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        query, key, value, output, lse, borders, seed, offset = ctx.saved_tensors
        gradients = torch.ops.aten._flash_attention_backward(
            *(gradient.contiguous(), query, key, value, output, lse, borders, borders),
            *(ctx.longest, ctx.longest, 0.0, ctx.left < 0, seed, offset),
            **_window(ctx.scale, ctx.left),
        )
        return (*gradients, None, None, None, None)


def _window(scale: float | None, left: int) -> dict[str, Any]:
    return {"scale": scale, "window_size_left": left, "window_size_right": 0}


def varlen_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    borders: torch.Tensor,
    longest: int,
    scale: float | None = None,
    window: int | None = None,
) -> torch.Tensor:
    """Return causal attention within each conversation, (tokens, heads, dim).

    `query` is (tokens, heads, dim), `key` and `value` (tokens, key/value heads, dim), bf16 or fp16
    on a GPU from Ampere on; `borders` the cumulative lengths, int32 (conversations + 1,); `longest`
    the longest length; `window` how many tokens back one may look, itself included.
    """
    left = -1 if window is None else window - 1
    output: torch.Tensor = _Varlen.apply(query, key, value, borders, longest, scale, left)
    return output


def supported() -> bool:
    """Return whether the kernel runs on this machine's GPU."""
    return torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)


def register() -> None:
    """Make it an attention of transformers, by NAME; batches carry `cu_seq_lens_q`."""
    from transformers import AttentionInterface, AttentionMaskInterface

    def attention(
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        scaling: float | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, None]:
        _require_plain(type(module).__name__, kwargs)
        # Norms kept in 32 bits give 32-bit queries; the kernel takes 16 bits only. Squeezed, not indexed:
        # the gradient of an index is a copy, which turns each of these around in memory, twice.
        queries, keys, values = (
            part.squeeze(0).transpose(0, 1).to(compute_dtype()).contiguous()
            for part in (query, key, value)
        )
        borders, longest = kwargs["cu_seq_lens_q"], int(kwargs["max_length_q"])
        window = kwargs.get("sliding_window")
        output = varlen_attention(queries, keys, values, borders, longest, scaling, window)
        return output.unsqueeze(0), None

    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, lambda *args, **kwargs: None)


def _require_plain(layer: str, options: dict[str, Any]) -> None:
    """Raise TrainingRefused for attention that the kernel would compute otherwise, without a word."""
    unknown = {"s_aux": "sinks", "softcap": "capped scores"}
    found = [words for name, words in unknown.items() if options.get(name) is not None]
    if found:
        raise TrainingRefused(
            f"training.backend=trl: {layer} has {' and '.join(found)}, which the attention kernel for "
            f"packed conversations on a GPU lacks; set training.backend=unsloth"
        )


def give_to_unsloth() -> None:
    """Let Unsloth use the kernel where it would not: its own way in needs torch 2.12.

    Before that it calls SDPA once per conversation, and a quarter of a training step goes into
    cutting rows apart and adding their gradients together (measured on an H200).
    """
    if not supported():
        return
    from unsloth.utils import attention_dispatch as dispatch

    if dispatch.HAS_FLASH_ATTENTION or dispatch._TORCH_VARLEN_ATTN is not None:
        return

    def call(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        borders: torch.Tensor,
        longest: int,
        *,
        scale: float | None,
        window_size: tuple[int, int],
        enable_gqa: bool,
    ) -> torch.Tensor:
        window = None if window_size[0] < 0 else window_size[0] + 1
        return varlen_attention(query, key, value, borders, longest, scale, window)

    dispatch._TORCH_VARLEN_ATTN = call
    dispatch._varlen_attn_call = call
