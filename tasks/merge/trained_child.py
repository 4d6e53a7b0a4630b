"""The child process of merge that asks what was evaluated: the yardstick of what is merged."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel

from retune.child import emit, main
from retune.comparison import Yardstick, keep_logits
from retune.loaders import admit, load_config
from retune.models import is_quantized, load_tuned
from retune.original import Original
from retune.recipe import Model


class TrainedJob(BaseModel):
    """`trained` is what train wrote: an adapter on `model`, to be put on its `original` if there is
    one, or a whole checkpoint."""

    model: Model
    revision: str | None
    original: Original | None = None
    trained: Path
    yardstick: Yardstick


def ask(job: TrainedJob) -> dict[str, Any]:
    """Keep the logits; return `in_4bit`, the modules whose weights are 4-bit ones, and whether they
    are `stored` so."""
    emit("state", text="measuring what was evaluated")
    admit(job.model, job.revision)
    model = load_tuned(job.model, job.revision, job.trained, job.original)
    keep_logits(model, job.yardstick)
    stored = load_config(job.model.base, job.revision)
    return {"in_4bit": in_4bit(model), "stored": is_quantized(stored)}


def in_4bit(model: Any) -> list[str]:
    """Return the paths of the modules whose weights are 4-bit ones, as the base names them."""
    from bitsandbytes.nn import Linear4bit

    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return [
        path.removesuffix(".base_layer")
        for path, module in base.named_modules()
        if isinstance(module, Linear4bit)
    ]


if __name__ == "__main__":
    main(TrainedJob, ask)
