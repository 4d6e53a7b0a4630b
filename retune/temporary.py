"""Temporary folders whose names say whose they are, so that those of killed processes can be removed."""

import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from retune.files import digest

LONGEST_PARENT = 60  # bytes; below it, the path of a Unix socket has no room for a longer one


@contextmanager
def temporary_folder(parent: str | None = None) -> Iterator[Path]:
    """Give a folder that goes with the block, or after this process was killed (see `sweep`)."""
    prefix = f"{_of_this_host()}{os.getpid()}-"
    with tempfile.TemporaryDirectory(prefix=prefix, dir=parent) as folder:
        yield Path(folder)


def sweep() -> None:
    """Remove the temporary folders of this user's processes that ended without doing so."""
    ours = re.compile(rf"{_of_this_host()}(\d+)-\w+")
    for parent in {tempfile.gettempdir(), short_parent()}:
        for folder in Path(parent).iterdir():
            match = ours.fullmatch(folder.name)
            with suppress(OSError):
                if match and not psutil.pid_exists(int(match[1])) and _is_ours(folder):
                    shutil.rmtree(folder)


def short_parent() -> str:
    """Return the folder for temporary files, or `/tmp` if a socket's path would be too long in it."""
    parent = tempfile.gettempdir()
    return parent if len(parent.encode()) <= LONGEST_PARENT else "/tmp"


def _of_this_host() -> str:
    # Containers may have a folder for temporary files in common, and each has ids of its own.
    return f"retune-{digest(socket.gethostname())[:6]}-"


def _is_ours(folder: Path) -> bool:
    return not folder.is_symlink() and folder.stat().st_uid == os.getuid()
