"""A full disk that shows only in what others say of it: raw errors of libraries, and the errors of a
Prefect server whose database lies on that disk."""

import shutil
import sys
import tempfile
from pathlib import Path

from retune.disk_space import LEAST_ROOM, NoSpaceLeft, is_disk_full, no_space_left
from retune.home import home


def full_disk(error: Exception) -> NoSpaceLeft | None:
    """Return what tells a person which disk is full, None if that is not the cause of an error.

    A server that cannot write answers HTTP 500, or nothing, whatever it is asked: that is laid to the
    disk while the home folder has less room than a run begins with.
    """
    if isinstance(error, NoSpaceLeft):
        return error
    if is_disk_full(error):
        places = home(), Path(tempfile.gettempdir())
        return no_space_left(_there(min(places, key=_free)) / "any", error)
    if _is_of_server(error) and _free(home()) < LEAST_ROOM:
        return no_space_left(_there(home()) / "prefect", error)
    return None


def _is_of_server(error: Exception) -> bool:
    if "httpx" not in sys.modules:  # takes a while to import, of which a short command has no use
        return False
    from httpx import HTTPError

    return isinstance(error, HTTPError)


def _free(folder: Path) -> int:
    return shutil.disk_usage(_there(folder)).free


def _there(folder: Path) -> Path:
    """Return the folder, or where it would be made: nobody may have used this home yet."""
    return next(place for place in (folder, *folder.parents) if place.exists())
