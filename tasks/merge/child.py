"""The child process of merge that writes one checkpoint, shard by shard, and proves it."""

import resource
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from retune.child import emit, main
from retune.comparison import Yardstick, measure
from retune.loaders import admit
from retune.models import load_plain
from retune.recipe import Model
from tasks.merge.checkpoint import damaged
from tasks.merge.sources import Base, open_source
from tasks.merge.writing import write_model


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


def merge(job: MergeJob) -> dict[str, Any]:
    """Write the checkpoint, read it back and compare it with the model that was evaluated.

    Returns `damaged`, the names of the tensors that are not on the disk as they were written, and
    `metrics`: those of `measure`, `changed_share` (0 to 1) of the trained tensors, and
    `write_memory_gib`, the most main memory while writing, mapped files and imports included.
    """
    emit("state", text=f"merging onto {job.base.name}")
    admit(job.model, job.revision)
    source = open_source(job.trained, job.base, job.model, job.revision, job.tokenizer)
    result = write_model(source, job.tokenizer, job.folder, int(job.max_shard_gb * 1e9))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # KiB on Linux
    unchanged = [name for name, differs in result.changed.items() if not differs]
    print("trained, and still as in the base:", unchanged)
    if names := damaged(job.folder, result.sums):
        return {"damaged": names, "metrics": {}}
    emit("state", text="comparing the checkpoint with what was evaluated")
    compared = measure(load_plain(job.folder), job.yardstick)
    share = 1 - len(unchanged) / len(result.changed)
    return {
        "damaged": [],
        "metrics": {**compared, "changed_share": share, "write_memory_gib": memory},
    }


if __name__ == "__main__":
    main(MergeJob, merge)
