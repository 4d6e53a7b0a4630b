"""A full disk, as one clear error: looked for before a stage begins, and told when it is met."""

import errno
import re
import shutil
from pathlib import Path

from retune.errors import RetuneError
from retune.home import home, make_home
from retune.measures import format_bytes

LEAST_ROOM = 64 * 2**20  # bytes


class NoSpaceLeft(RetuneError, OSError):
    """The disk is too full to continue."""

    def __str__(self) -> str:
        return self.strerror or super().__str__()  # without the number, which is for programs


def no_space_left(folder: Path, error: Exception) -> NoSpaceLeft:
    """Return the error that tells a person which disk is full and what to do."""
    free = shutil.disk_usage(folder.parent).free
    return NoSpaceLeft(
        errno.ENOSPC,
        f"no space left in {folder.parent} ({format_bytes(free)} free): free some, or set RETUNE_HOME "
        f"to a folder on a larger disk; finished stages are kept",
    )


# What programs of several languages say of a full disk; some of them drop the number of the error.
DISK_FULL = r"No space left on device|Disk quota exceeded|iostream error|basic_ios::clear"
_FULL = re.compile(rf"{DISK_FULL}|os error 28\b|database or disk is full|unexpected pos \d+ vs")


def is_disk_full(error: BaseException | None) -> bool:
    """Tell whether an error, or one that it comes from, says that a disk is full."""
    while error:
        number = error.errno if isinstance(error, OSError) else None
        if number in (errno.ENOSPC, errno.EDQUOT) or _FULL.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def require_room_to_begin() -> None:
    """Raise NoSpaceLeft if the home folder has no room for what any run writes: databases and logs."""
    free = shutil.disk_usage(make_home()).free
    if free < LEAST_ROOM:
        raise NoSpaceLeft(
            errno.ENOSPC,
            f"a run takes at least {format_bytes(LEAST_ROOM)} for its databases and logs, "
            f"{format_bytes(free)} are free in {home()}: free some, or set RETUNE_HOME to a folder on a "
            f"larger disk",
        )


def require_space(folder: Path, count: int, subject: str, setting: str) -> None:
    """Raise NoSpaceLeft unless `count` bytes are free in `folder`; `setting` would make it less."""
    free = shutil.disk_usage(folder).free
    if count > free:
        raise NoSpaceLeft(
            errno.ENOSPC,
            f"{subject} takes {format_bytes(count)}, {format_bytes(free)} are free in {folder}: free "
            f"some, set RETUNE_HOME to a folder on a larger disk, or lower {setting}",
        )
