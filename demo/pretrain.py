"""Pretrains the demo's base model in a process of its own: `python -m demo.pretrain FOLDER`."""

import sys
import time
from pathlib import Path

from demo.base_model import pretrain

PROGRESS_SECONDS = 15


class Progress:
    """Prints a line of progress now and then."""

    def __init__(self) -> None:
        self._printed = time.monotonic()

    def __call__(self, line: str) -> None:
        if time.monotonic() - self._printed >= PROGRESS_SECONDS:
            self._printed = time.monotonic()
            print(f"  {line}", flush=True)


if __name__ == "__main__":
    pretrain(Path(sys.argv[1]), progress=Progress())
