"""Programs that look at a whole model run on the GPU, where a build for it is and the model has room.

What they are asked is the same either way; a GPU only rounds otherwise.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from retune.llamacpp.installation import LlamaCpp, accelerated, locate
from retune.llamacpp.process import LlamaCppFailed
from retune.machine import free_gpu_memory
from retune.workspace import cache_dir

WORTH = 64 << 20  # bytes of a file; a smaller one is read before CUDA has started
BESIDE = 2 << 30  # bytes for keys, values and what is computed
ALL_LAYERS = ("--n-gpu-layers", "999")

T = TypeVar("T")


def with_program(name: str, gguf: Path, work: Callable[[list[str | Path]], T]) -> T:
    """Return what `work` makes of the beginning of a command: the program, and where it computes.

    One program at a time has the GPU, others wait for it: so there is room for each. What fails there
    is done again by the CPU, whose word counts.
    """
    from filelock import FileLock

    build = accelerated() if gguf.exists() and gguf.stat().st_size >= WORTH else None
    if build:
        with FileLock(cache_dir() / "llama.cpp-gpu.lock"):
            if has_room(gguf):
                try:
                    return work([build.program(name), *ALL_LAYERS])
                except LlamaCppFailed as error:
                    logging.getLogger(__name__).warning("by the CPU, as the GPU failed: %s", error)
    return work([locate().program(name)])


def has_room(gguf: Path) -> bool:
    """Tell whether a model fits into what is free of the GPU's memory."""
    return gguf.stat().st_size + BESIDE <= free_gpu_memory()


def measuring_build(gguf: Path) -> LlamaCpp:
    """Return the build that measures `gguf` if the GPU is free."""
    large = gguf.stat().st_size >= WORTH
    return (accelerated() if large else None) or locate()
