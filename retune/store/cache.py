"""This machine's work folder as a cache of the store: what was not used for longest goes first.

$RETUNE_CACHE_SIZE limits it, such as `200GB`; without it nothing goes by itself. What any process of
this machine has used stays until that ends: each holds a lock that the system lets go with it.
"""

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from retune.errors import RetuneError
from retune.files import size
from retune.home import is_marked, make_home, remove, work
from retune.manifest import RECORD
from retune.store.place import Store

LIMIT = "RETUNE_CACHE_SIZE"
USE = ".use"  # after the name of an output: the lock of its users, and when it was used last
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
BINARY = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}

_used: dict[Path, int] = {}  # the open locks of this process


class BadLimit(RetuneError):
    """The size of the cache is no number of bytes."""


class _Copy(NamedTuple):
    """An output in the work folder: when it was used last, and its bytes."""

    used: float
    folder: Path
    bytes: int


def limit() -> int | None:
    """Return how many bytes of outputs stay, None for all. Raises BadLimit."""
    text = os.environ.get(LIMIT, "").strip()
    if not text:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]?)(i?)B?", text, re.IGNORECASE)
    if not match:
        raise BadLimit(f"{LIMIT}={text!r:.40} is no size: write a number and a unit, such as 200GB")
    units = BINARY if match[3] else UNITS
    return int(float(match[1]) * units[match[2].upper()])


def hold(folder: Path) -> None:
    """Keep an output, which need not be there yet, on this machine until this process ends."""
    path = folder.with_name(folder.name + USE)
    try:
        if path not in _used:
            make_home()
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            _used[path] = descriptor
        os.utime(path)
    except OSError:  # in a folder that others may only read, where nobody removes anything
        return


def let_go() -> None:
    """Let go of all outputs that this process holds."""
    while _used:
        os.close(_used.popitem()[1])


def trim(store: Store) -> list[Path]:
    """Remove what was not used for longest and the store has, until the limit is kept; return it.

    If all that is there is in use, the limit is not kept: no run ends for want of room that it needs.
    """
    most = limit()
    if most is None:
        return []
    copies = sorted(_copies())
    total = sum(copy.bytes for copy in copies)
    gone = []
    for copy in copies:
        if total <= most:
            break
        name = f"{copy.folder.parent.name}/{copy.folder.name}"
        if store.has(f"{name}/{RECORD}") and _removed(copy.folder):
            total -= copy.bytes
            gone.append(copy.folder)
    return gone


def _copies() -> Iterator[_Copy]:
    stages = [path for path in work().iterdir() if is_marked(path)] if work().is_dir() else []
    for folder in (path for stage in stages for path in stage.iterdir()):
        record, use = folder / RECORD, folder.with_name(folder.name + USE)
        if re.fullmatch("[0-9a-f]{16}", folder.name) and record.is_file():
            last = use if use.exists() else record
            with suppress(FileNotFoundError):  # another process has removed it meanwhile
                yield _Copy(last.stat().st_mtime, folder, size(folder))


def in_use(folder: Path) -> bool:
    """Tell whether a process of this machine holds an output."""
    try:
        descriptor = os.open(folder.with_name(folder.name + USE), os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _removed(folder: Path) -> bool:
    """Remove an output unless a process of this machine uses or builds it; returns whether it is gone."""
    from filelock import FileLock, Timeout

    descriptor = os.open(folder.with_name(folder.name + USE), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with FileLock(folder.with_name(folder.name + ".lock"), timeout=0):
            remove(folder)
    except (BlockingIOError, Timeout):
        return False
    finally:
        os.close(descriptor)
    return True
