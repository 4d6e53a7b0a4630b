"""The child process of merge that stores a 16-bit checkpoint in 4 bits, as Unsloth's merged_4bit."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel

from retune.child import emit, main
from retune.comparison import Yardstick, measure
from retune.loaders import admit, load_tokenizer, strip_code
from retune.models import compute_dtype, load_plain, nf4
from retune.recipe import Model


class FourBitJob(BaseModel):
    """`checkpoint` in 16 bits becomes one of NF4 weights in `folder`, in files of `max_shard_gb` GB.

    `model` at `revision` is what it was trained on.
    """

    model: Model
    revision: str | None
    checkpoint: Path
    folder: Path
    max_shard_gb: float
    yardstick: Yardstick


def quantize(job: FourBitJob) -> dict[str, Any]:
    """Write the checkpoint, for transformers and bitsandbytes; return `metrics` of it, read back."""
    emit("state", text="storing the merged model in 4 bits")
    admit(job.model, job.revision)
    model = load_plain(job.checkpoint, nf4(compute_dtype()))
    model.save_pretrained(job.folder, max_shard_size=int(job.max_shard_gb * 1e9))
    load_tokenizer(job.checkpoint).save_pretrained(job.folder)
    strip_code(job.folder)
    del model
    return {"metrics": measure(load_plain(job.folder), job.yardstick)}


if __name__ == "__main__":
    main(FourBitJob, quantize)
