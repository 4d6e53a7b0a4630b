"""The child process of merge that asks what was trained: the yardstick of what is merged."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel

from retune.child import emit, main
from retune.loaders import admit, load_config
from retune.models import is_quantized, load_tuned
from retune.recipe import Model
from tasks.merge.comparison import Yardstick, keep_logits


class TrainedJob(BaseModel):
    """`trained` is what train wrote, an adapter on `model` or a whole checkpoint."""

    model: Model
    revision: str | None
    trained: Path
    yardstick: Yardstick


def ask(job: TrainedJob) -> dict[str, Any]:
    """Keep the logits; return `in_4bit`, the modules whose weights are 4-bit ones, and whether the
    base is `stored_in_4bit`."""
    emit("state", text="measuring what was trained")
    admit(job.model, job.revision)
    model = load_tuned(job.model, job.revision, job.trained)
    keep_logits(model, job.yardstick)
    stored = load_config(job.model.base, job.revision)
    return {"in_4bit": in_4bit(model), "stored_in_4bit": is_quantized(stored)}


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
