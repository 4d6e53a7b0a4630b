"""Programs that look at a whole model run on the GPU, where a build for it is and the model has room.

What they are asked is the same either way; a GPU only rounds otherwise.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Condition
from typing import TypeVar

from retune.llamacpp.installation import accelerated, locate
from retune.llamacpp.process import LlamaCppEnded, LlamaCppFailed
from retune.machine import free_gpu_memory

WORTH = 64 << 20  # bytes of a file; a smaller one is read before CUDA has started
BESIDE = 4 << 30  # bytes for keys, values and what is computed
WAKING = 1  # seconds between two looks at what is free
ALL_LAYERS = ("--n-gpu-layers", "999")

T = TypeVar("T")


class GpuMemory:
    """What programs of this process were promised of the GPU's memory."""

    def __init__(self) -> None:
        self._promised = 0
        self._changed = Condition()

    @contextmanager
    def room_for(self, size: int) -> Iterator[bool]:
        """Promise `size` bytes for the length of a block, or say that there is no room for it.

        Waits while others have what it takes. A promise that is kept counts twice, as promised and as
        no longer free: a program takes its memory some seconds after its start.
        """
        with self._changed:
            while not (fits := self._promised + size <= free_gpu_memory()) and self._promised:
                self._changed.wait(WAKING)  # other processes give memory back, too
            self._promised += size if fits else 0
        try:
            yield fits
        finally:
            with self._changed:
                self._promised -= size if fits else 0
                self._changed.notify_all()


GPU = GpuMemory()


def with_program(name: str, gguf: Path, work: Callable[[list[str | Path]], T]) -> T:
    """Return what `work` makes of the beginning of a command: the program, and where it computes.

    What fails on the GPU is done again by the CPU, whose word counts; what is ended from outside is not.
    """
    size = gguf.stat().st_size
    build = accelerated() if size >= WORTH else None
    if build:
        with GPU.room_for(size + BESIDE) as fits:
            if fits:
                try:
                    return work([build.program(name), *ALL_LAYERS])
                except LlamaCppEnded:
                    raise
                except LlamaCppFailed as error:
                    logging.getLogger(__name__).warning("by the CPU, as the GPU failed: %s", error)
    return work([locate().program(name)])


def computes_on_gpu(program: Sequence[str | Path]) -> bool:
    """Tell whether the beginning of a command that `with_program` gave leads to the GPU."""
    return ALL_LAYERS[0] in program
