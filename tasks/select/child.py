"""The child process of select: an adapter on the weights that it was trained on, and on the original."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel

from retune.child import emit, main
from retune.comparison import Yardstick, keep_logits, measure
from retune.inspection import stored_in_4bit
from retune.loaders import admit, load_config
from retune.models import is_quantized, load_tuned, release_memory
from retune.original import Original
from retune.recipe import Model, RecipeError
from retune.room import misfit, parameters_of
from retune.row_losses import HeldOut


class SelectJob(BaseModel):
    """`adapter` was trained on `model` at `revision`, and may be put on `original`, as it will be if
    that is `wanted`. `held_out` is what the losses are taken of, `yardstick` what compares both."""

    held_out: HeldOut
    adapter: Path
    model: Model
    revision: str | None
    original: Original
    wanted: bool
    yardstick: Yardstick


def select(job: SelectJob) -> dict[str, Any]:
    """Return what the adapter is on both weights: `losses` by row on those `trained` on and on the
    `16bit` ones, and `comparison` of the latter with the former (see `retune.comparison.measure`).

    Where there is nothing to choose, `onto` says which it is instead, and `reason` why, if the
    16-bit ones do not fit into memory. Raises RecipeError if these are wanted and do not fit, or are
    named nowhere of a base that is stored in 4 bits.
    """
    admit(job.model, job.revision)
    stored = is_quantized(load_config(job.model.base, job.revision))
    if not (stored or job.model.load_in_4bit):
        return {"onto": "trained"}
    if stored and job.original.name == job.model.base:
        if job.wanted:
            raise RecipeError(f"merging.onto=16bit: {stored_in_4bit(job.model.base)}")
        return {"onto": "trained"}
    reason = misfit(parameters_of(job.original.name, job.original.revision))
    if job.wanted:
        if reason:
            raise RecipeError(
                f"merging.onto=16bit: {reason}; set merging.onto=best or dequantized, or take a machine "
                f"with more memory"
            )
        return {"onto": "16bit"}
    if reason:
        return {"onto": "trained", "reason": reason}
    emit("state", text="the adapter on the 4-bit weights")
    model = load_tuned(job.model, job.revision, job.adapter)
    losses = {"trained": job.held_out.losses(model)}
    keep_logits(model, job.yardstick)
    del model  # before the next one is loaded
    release_memory()
    emit("state", text="the adapter on the 16-bit weights")
    model = load_tuned(job.model, job.revision, job.adapter, job.original)
    losses["16bit"] = job.held_out.losses(model)
    return {"losses": losses, "comparison": measure(model, job.yardstick)}


if __name__ == "__main__":
    main(SelectJob, select)
