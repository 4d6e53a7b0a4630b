"""The child process of merge that writes one checkpoint, shard by shard, and proves it."""

import resource
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from retune.child import emit, main
from retune.config import Model
from retune.models import is_adapter, load_plain
from tasks.merge.checkpoint import damaged, write
from tasks.merge.comparison import Yardstick, measure
from tasks.merge.sources import AdaptedBase, Base, FullFineTune, Source

if TYPE_CHECKING:
    import torch


class MergeJob(BaseModel):
    """`trained` is what train wrote; `folder` gets the checkpoint, in files of `max_shard_gb` GB.

    `model` at `revision` is what was trained on; it need not be the `base` that is merged onto.
    """

    trained: Path
    tokenizer: Path
    model: Model
    revision: str | None
    base: Base
    max_shard_gb: float
    folder: Path
    yardstick: Yardstick


class Written(BaseModel):
    """`sums` is the checksum of every tensor, `changed` says of the trained ones whether they differ
    from the base's at 16 bits."""

    sums: dict[str, int]
    changed: dict[str, bool]


def merge(job: MergeJob) -> dict[str, Any]:
    """Write the checkpoint, read it back and compare it with what was trained.

    Returns `damaged`, the names of the tensors that are not on the disk as they were written, and
    `metrics`: those of `measure`, `changed_share` (0 to 1) of the trained tensors, and
    `write_memory_gib`, the most main memory while writing, mapped files and imports included.
    """
    emit("state", text=f"merging onto {job.base.name}")
    written = write_checkpoint(job)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # KiB on Linux
    unchanged = [name for name, differs in written.changed.items() if not differs]
    print("trained, and still as in the base:", unchanged)
    if names := damaged(job.folder, written.sums):
        return {"damaged": names, "metrics": {}}
    emit("state", text="comparing the checkpoint with what was trained")
    seen = measure(load_plain(job.folder), job.yardstick)
    share = 1 - len(unchanged) / len(written.changed)
    return {"damaged": [], "metrics": {**seen, "changed_share": share, "write_memory_gib": memory}}


def write_checkpoint(job: MergeJob) -> Written:
    """Write weights, configuration and tokenizer to the job's folder, each weight rounded once."""
    job.folder.mkdir()
    source = open_source(job)
    dtype = checkpoint_dtype(source.config)
    changed = {}

    def rounded(name: str) -> "torch.Tensor":
        before, after = source.read(name)
        after = after.to(dtype)
        if not after.isfinite().all():
            raise ValueError(
                f"{name} has values beyond {dtype} with what was trained merged in; train with a lower "
                f"training.learning_rate"
            )
        if before is not None:
            changed[name] = not equal(before.to(dtype), after)
        return after

    sums = write(job.folder, source.shapes, dtype, rounded, int(job.max_shard_gb * 1e9))
    save_settings(source.config, dtype, job)
    return Written(sums=sums, changed=changed)


def open_source(job: MergeJob) -> Source:
    if is_adapter(job.trained):
        return AdaptedBase(job.trained, job.base, job.model, job.revision, job.tokenizer)
    return FullFineTune(job.trained, job.base)


def checkpoint_dtype(config: Any) -> "torch.dtype":
    """Return the precision of the checkpoint: bf16, or fp16 if the source is stored so."""
    import torch

    return torch.float16 if config.dtype == torch.float16 else torch.bfloat16


def equal(one: "torch.Tensor", other: "torch.Tensor") -> bool:
    import torch

    return one.shape == other.shape and torch.equal(one, other)


def save_settings(config: Any, dtype: "torch.dtype", job: MergeJob) -> None:
    """Write configuration and tokenizer; generation ends with the end-of-turn token."""
    from transformers import AutoTokenizer, GenerationConfig

    tokenizer = AutoTokenizer.from_pretrained(job.tokenizer)
    special = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config.update(special | {"dtype": dtype})
    config.save_pretrained(job.folder)
    GenerationConfig(**special).save_pretrained(job.folder)
    tokenizer.save_pretrained(job.folder)


if __name__ == "__main__":
    main(MergeJob, merge)
