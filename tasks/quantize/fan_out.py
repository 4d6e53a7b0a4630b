"""Several quantizations of one GGUF side by side: what they need, and how many at a time fit here."""

import errno
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from retune import llamacpp
from retune.config import Quantization, Recipe
from retune.machine import MachineUnfit, cores, free_memory
from retune.workspace import NoSpaceLeft, in_words

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
            f"{len(self.methods)} GGUF files to make, {in_words(sum(self.sizes))}; {self.parallel} at a "
            f"time, each with {in_words(self.memory)} of memory, and measured by threads: {self.threads}"
        )

    def settle(self, recipe: Recipe) -> Recipe:
        """Return the recipe with the number of threads that each of its files is measured by."""
        settled = recipe.quantization.model_copy(update={"threads": self.threads})
        return recipe.model_copy(update={"quantization": settled})


def fan_out(source: Path, methods: Sequence[str], config: Quantization, folder: Path) -> FanOut:
    """Return how to quantize `source` by `methods` into files below `folder`.

    The sizes are llama.cpp's own, by a dry run. What the recipe leaves open is filled in: one at a
    time more than there are cores, if memory allows, since one of them reads or writes while the
    others compute. Raises NoSpaceLeft or MachineUnfit, which say what would fit.
    """
    ordered = sorted(methods, key=llamacpp.METHODS.index)
    sizes = tuple(llamacpp.quantized_size(source, method) for method in ordered)
    _require_disk(dict(zip(ordered, sizes, strict=True)), methods, folder)
    held = llamacpp.facts(source).largest * BYTES_PER_WEIGHT_HELD
    memory = round(held + MEMORY_BESIDE)
    free = free_memory()
    if ordered and memory > free:
        raise MachineUnfit(
            f"to quantize {source.name} takes {in_words(memory)} of memory (its largest tensor as 32-bit "
            f"numbers), {in_words(free)} are free: no method fits; free some, or use a larger machine"
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
    rest = [f"{method} ({in_words(sizes[method])})" for method in methods if method not in fit]
    raise NoSpaceLeft(
        errno.ENOSPC,
        f"the GGUF files still to make need {in_words(sum(sizes.values()))}, {in_words(free)} are free "
        f"in {folder}: {', '.join(fit) or 'none'} would fit, {', '.join(rest)} not; free some, set "
        f"RETUNE_HOME to a folder on a larger disk, or set quantization.methods to what fits",
    )
