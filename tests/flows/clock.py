"""A clock that jumps for the processes that are started with it, and for no other."""

import shutil
import struct
import subprocess
from pathlib import Path

COMPILER = shutil.which("cc")
FORM = "=q"  # how many seconds it is wrong by, as `clock.c` reads it


class Clock:
    """A wrong clock; `variables` are those by which a process has it. Needs COMPILER."""

    def __init__(self, folder: Path) -> None:
        self._file, library = folder / "clock", folder / "clock.so"
        self.set(0)
        source = Path(__file__).with_suffix(".c")
        assert COMPILER
        subprocess.run(
            [COMPILER, "-O2", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True
        )
        self.variables = {"LD_PRELOAD": str(library), "RETUNE_TEST_CLOCK": str(self._file)}

    def set(self, seconds: int) -> None:
        """Let it be wrong by so many seconds, at once and for all."""
        self.seconds = seconds
        # In place: the processes have this file in their memory.
        with self._file.open("r+b" if self._file.exists() else "wb", buffering=0) as file:
            file.write(struct.pack(FORM, seconds))
