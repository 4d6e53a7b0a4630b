"""A disk of its own for a home folder, in memory, that can be filled."""

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

BLOCK = 1 << 16  # bytes


class CannotMount(Exception):
    """No file system may be mounted here; the message says why."""


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """Mount a file system of `size` MiB in a new folder. Raises CannotMount."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}m,mode=700", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise CannotMount("there is no program to mount by") from None
    if mounted.returncode:
        raise CannotMount(f"no file system may be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


class Ballast:
    """A file that takes all that is left of a disk."""

    def __init__(self, disk: Path) -> None:
        self.file = disk / "ballast"

    def fill(self) -> None:
        with self.file.open("ab", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(BLOCK))

    def drop(self) -> None:
        self.file.unlink()

    @contextmanager
    def filling(self, when: Callable[[], bool] = lambda: True) -> Iterator[None]:
        """Fill the disk as soon as `when`, and whatever is freed after it, for the length of a block."""
        ended = Event()

        def watch() -> None:
            while not ended.is_set() and not when():
                time.sleep(0.002)
            while not ended.is_set():
                self.fill()
                time.sleep(0.01)

        thread = Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
