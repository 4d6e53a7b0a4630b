"""Several quantizations of one GGUF side by side: what they need, and how many at a time fit here."""

import errno
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from retune import llamacpp
from retune.disk_space import NoSpaceLeft
from retune.machine import MachineUnfit, cores, free_memory
from retune.measures import format_bytes, format_memory
from retune.recipe import Quantization, Recipe
from retune.recipe.methods import by_cost

# Measured: llama-quantize holds its largest tensor twice, as 32-bit numbers, and little else.
BYTES_PER_WEIGHT_HELD = 8
MEMORY_BESIDE = 0.2 * 2**30
DISK_BESIDE = 0.1 * 2**30  # metadata, logs, the database


@dataclass(frozen=True)
class FanOut:
    """Which methods are still to do, the slowest first, and how.

    `sizes` are the files' bytes, in the same order, `memory` the bytes that one quantization holds;
    its file comes on top while it is measured, mapped, so that little memory only makes it slow.
    """

    methods: tuple[str, ...]
    sizes: tuple[int, ...]
    memory: int
    parallel: int
    threads: int

    def __str__(self) -> str:
        return (
            f"{len(self.methods)} GGUF files to make, {format_bytes(sum(self.sizes))}; {self.parallel} "
            f"at a time, each with {format_memory(self.memory)} of memory, and measured by threads: "
            f"{self.threads}"
        )

    def settle(self, recipe: Recipe) -> Recipe:
        """Return the recipe with the number of threads that each of its files is measured by."""
        settled = recipe.quantization.model_copy(update={"threads": self.threads})
        return recipe.model_copy(update={"quantization": settled})


NOTHING_TO_MAKE = FanOut(methods=(), sizes=(), memory=0, parallel=1, threads=1)


def fan_out(source: Path, methods: Sequence[str], config: Quantization, folder: Path) -> FanOut:
    """Return how to quantize `source` by `methods` into files below `folder`.

    The sizes are llama.cpp's own, by a dry run. What the recipe leaves open is filled in: one at a
    time more than there are cores, if memory allows, since one of them reads or writes while the
    others compute. Raises NoSpaceLeft or MachineUnfit, which say what would fit.
    """
    ordered = by_cost(tuple(methods))
    sizes = tuple(llamacpp.quantized_size(source, method) for method in ordered)
    _require_disk(dict(zip(ordered, sizes, strict=True)), methods, folder)
    tensor_memory = llamacpp.facts(source).largest * BYTES_PER_WEIGHT_HELD
    memory = round(tensor_memory + MEMORY_BESIDE)
    free = free_memory()
    if ordered and memory > free:
        raise MachineUnfit(
            f"to quantize {source.name} takes {format_memory(memory)} of memory (its largest tensor as "
            f"32-bit numbers), {format_memory(free)} are free: no method fits; free some, or use a "
            f"larger machine"
        )
    # While one is quantized another is measured: a mapped file needs room too, to be fast.
    fitting = free // (memory + max(sizes, default=0))
    parallel = config.parallel or max(1, min(len(ordered), cores() + 1, fitting))
    threads = config.threads or math.ceil(cores() / parallel)
    return FanOut(tuple(ordered), sizes, memory, parallel, threads)


def _require_disk(sizes: dict[str, int], methods: Sequence[str], folder: Path) -> None:
    """Raise NoSpaceLeft unless all files fit; it names those that do, in the recipe's order."""
    free = shutil.disk_usage(folder).free
    if sum(sizes.values()) + DISK_BESIDE <= free:
        return
    fit: list[str] = []
    for method in methods:
        if sum(sizes[m] for m in (*fit, method)) + DISK_BESIDE <= free:
            fit.append(method)
    unfit = [f"{method} ({format_bytes(sizes[method])})" for method in methods if method not in fit]
    raise NoSpaceLeft(
        errno.ENOSPC,
        f"the GGUF files still to make need {format_bytes(sum(sizes.values()))}, {format_bytes(free)} "
        f"are free in {folder}: {', '.join(fit) or 'none'} would fit, {', '.join(unfit)} not; free some, "
        f"set RETUNE_HOME to a folder on a larger disk, or set quantization.methods to what fits",
    )
