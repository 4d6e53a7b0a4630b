"""The disk that a run needs: what counts is the merged model, its GGUF and the files made of it."""

import json
import math
import shutil
import struct
from collections.abc import Collection
from functools import cache
from pathlib import Path

from prefect import get_run_logger

from flows.plan import Plan
from flows.ray_cluster import on_cluster
from retune.disk_space import NoSpaceLeft
from retune.folders import ModelRefused
from retune.home import work
from retune.measures import format_bytes
from retune.outputs import Step
from retune.recipe import Recipe
from retune.recipe.methods import METHODS
from retune.records import Pins
from retune.sources import asking_hub, local_path

NF4_SHARE = 0.35  # of the 16-bit weights' bytes: embeddings and output layer stay in 16 bits
LONGEST_HEADER = 100_000_000  # bytes; the format's own limit


def require_disk(recipe: Recipe, pins: Pins, plan: Plan) -> None:
    """Raise NoSpaceLeft if what `plan` has yet to make does not fit: before the GPU has worked for it.

    On a cluster each machine looks at its own disk.
    """
    if on_cluster():
        return
    todo = [step_name(step) for step in plan.steps() if not step.done]
    making = [name for name in todo if name.partition(" ")[0] in ("merge", "convert", "quantize")]
    if not making:
        return
    try:
        parameters = count_parameters(recipe, pins)
    except ConnectionError as error:
        # Of a Hub that is away, or switched off: the weights may be here.
        get_run_logger().warning("How much disk the run needs is not known: %s", error)
        return
    needed, free = disk_needed(recipe, parameters, making), free_disk()
    if needed > free:
        raise NoSpaceLeft(
            f"the disk is too full: {', '.join(making)} take about {format_bytes(needed)}, and "
            f"{format_bytes(free)} are free in {work()}; free {format_bytes(needed - free)} (`retune gc` "
            f"shows what may go), or name a folder on another disk with RETUNE_HOME"
        )


def disk_needed(recipe: Recipe, parameters: int, todo: Collection[str]) -> float:
    """Return the bytes that the stages `todo` (by `step_name`) leave, of a model of so many weights."""
    full = 2 * parameters
    disk: float = full * sum(stage in todo for stage in ("merge", "convert"))
    if "merge" in todo and recipe.merging.save_method == "merged_4bit":
        disk += NF4_SHARE * full
    for method in recipe.quantization.methods:
        if f"quantize {method}" in todo:
            disk += parameters * METHODS[method].bits_per_weight / 8
    return disk


def free_disk() -> int:
    """Return the bytes that are free where the stages leave their outputs, also before there are any."""
    folder = work()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def step_name(step: Step) -> str:
    """Return a stage's name, of a quantization with its method."""
    return f"quantize {step.key['method']}" if step.stage == "quantize" else step.stage


def count_parameters(recipe: Recipe, pins: Pins) -> int:
    """Return the number of weights of the base model, from its safetensors headers alone."""
    folder = local_path(recipe.model.base, "model.base")
    if folder:
        return sum(_weights_in(file) for file in folder.glob("*.safetensors"))
    return _on_hub(recipe.model.base, pins.model)


@cache  # a commit does not change, and a run asks before the training and before the merge
def _on_hub(base: str, commit: str) -> int:
    from huggingface_hub import HfApi

    with asking_hub(base, "model", "model.base", ModelRefused):
        metadata = HfApi().get_safetensors_metadata(base, revision=commit)
    # NF4 packs two weights into one byte, and keeps their scales in bytes as well.
    return sum(n * (2 if kind == "U8" else 1) for kind, n in metadata.parameter_count.items())


def _weights_in(file: Path) -> int:
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8).ljust(8, b"\0"))
        if length > LONGEST_HEADER:
            raise _no_weights(file, f"its header would have {length:,} bytes")
        header = stream.read(length) or b"{}"
    try:
        tensors = [entry for name, entry in json.loads(header).items() if name != "__metadata__"]
        return sum(math.prod(tensor["shape"]) for tensor in tensors)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise _no_weights(file, "its header does not tell the tensors' shapes") from None


def _no_weights(file: Path, reason: str) -> ModelRefused:
    return ModelRefused(
        f"{file} is no safetensors file ({reason}); take the model from its publisher again"
    )
