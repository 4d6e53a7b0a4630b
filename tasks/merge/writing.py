"""The merged model on the disk: weights, configuration and tokenizer.

For child processes; imports torch where it is used.
"""

import ctypes
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from retune.errors import RetuneError
from retune.loaders import load_tokenizer, strip_code
from tasks.merge.checkpoint import write
from tasks.merge.sources import Source

if TYPE_CHECKING:
    import torch

MMAP_THRESHOLD = -3  # glibc's name for it in mallopt(3)
LARGE = 2**20  # bytes


class Written(BaseModel):
    """`sums` is the checksum of every tensor, `changed` says of the trained ones whether they differ
    from the base's at 16 bits."""

    sums: dict[str, int]
    changed: dict[str, bool]


class NotFinite(RetuneError):
    """A merged weight that 16 bits cannot hold."""


def give_back_memory() -> None:
    """Let freed matrices go back to the system at once, if the C library is glibc.

    Left alone, it keeps what those of up to 32 MiB leave behind: up to one more shard, in pieces that
    the next one does not fit into.
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(MMAP_THRESHOLD, LARGE)


def write_model(source: Source, tokenizer: Path, folder: Path, max_bytes: int) -> Written:
    """Write a whole model to `folder`, in files of up to `max_bytes` bytes, each weight rounded once.

    No more than one file is in memory. Raises ValueError for values beyond 16 bits.
    """
    folder.mkdir()
    give_back_memory()
    dtype = checkpoint_dtype(source.config)
    changed = {}

    def rounded(name: str) -> "torch.Tensor":
        before, after = source.read(name)
        after = after.to(dtype)
        if before is not None:
            require_finite(name, after)
            changed[name] = not equal(before.to(dtype), after)
        return after

    sums = write(folder, source.shapes, dtype, rounded, max_bytes)
    save_settings(source.config, dtype, tokenizer, folder)
    return Written(sums=sums, changed=changed)


def checkpoint_dtype(config: Any) -> "torch.dtype":
    """Return the precision of the checkpoint: bf16, or fp16 if the source is stored so."""
    import torch

    return torch.float16 if config.dtype == torch.float16 else torch.bfloat16


def require_finite(name: str, tensor: "torch.Tensor") -> None:
    """Raise NotFinite for a tensor with infinities or what is not a number."""
    import torch

    # The sum has them too, and takes a tenth of the time that looking at each value takes.
    if not tensor.sum(dtype=torch.float32).isfinite():
        raise NotFinite(
            f"{name} has values beyond {tensor.dtype} with what was trained merged in; train with a "
            f"lower training.learning_rate"
        )


def equal(left: "torch.Tensor", right: "torch.Tensor") -> bool:
    import torch

    return left.shape == right.shape and torch.equal(left, right)


def save_settings(config: Any, dtype: "torch.dtype", tokenizer: Path, folder: Path) -> None:
    """Write configuration and tokenizer; generation ends with the end-of-turn token."""
    from transformers import GenerationConfig

    loaded = load_tokenizer(tokenizer)
    special = {
        "bos_token_id": loaded.bos_token_id,
        "eos_token_id": loaded.eos_token_id,
        "pad_token_id": loaded.pad_token_id,
    }
    config.update(special | {"dtype": dtype})
    config.save_pretrained(folder)
    GenerationConfig(**special).save_pretrained(folder)
    loaded.save_pretrained(folder)
    strip_code(folder)
