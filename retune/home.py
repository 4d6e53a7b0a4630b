"""The home folder, and what retune may remove again.

What retune may delete again carries a marker from the moment it is made, and `remove` is the one
function that deletes: it takes nothing that does not lie in such a folder.
"""

import os
import re
import shutil
from pathlib import Path

from retune.errors import RetuneError

MARKER = ".made-by-retune"  # in a folder whose contents retune may remove


class BadName(RetuneError):
    """The path of a folder has a character with which it cannot be used."""


class NotOurs(RetuneError):
    """Something that retune did not make stands where it would write or remove."""


def home() -> Path:
    """Folder of everything retune writes: $RETUNE_HOME, else `.retune` below the current folder."""
    return Path(os.environ.get("RETUNE_HOME") or ".retune").absolute()


def is_home(path: Path) -> bool:
    """Tell whether a path is a name of the home folder, such as a link to it."""
    try:
        return path == home() or path.samefile(home())
    except OSError:  # one of them is not there
        return False


def work() -> Path:
    """Folder of the stages' outputs: $RETUNE_WORK, else `work` in the home folder.

    A run that must make everything anew, whatever is there, has a folder of its own.
    """
    folder = os.environ.get("RETUNE_WORK")
    return Path(folder).absolute() if folder else home() / "work"


# Of a path: what libraries that read files take for a pattern, and SQLite's addresses for a question;
# what no log or page can show.
_UNUSABLE = re.compile(r"[*?\[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def own_home() -> Path:
    """Return the home folder. Raises NotOurs for one that holds all that the user has, and BadName."""
    for variable, path in (("RETUNE_HOME", home()), ("RETUNE_WORK", work())):
        if character := _UNUSABLE.search(str(path)):
            raise BadName(
                f"{variable}: {character[0]!r} stands in {str(path)!r}, which some of the programs that "
                f"read files there take for something else; name a folder without it"
            )
    folder, user = home().resolve(), _users_home()
    if folder in (user, *user.parents):
        raise NotOurs(
            f"RETUNE_HOME={home()} would mix retune's files with everything that is there; name a "
            f"folder for them alone, e.g. {user / '.retune'}"
        )
    return home()


def make_home() -> Path:
    """Return the home folder; if it is not there, it is made for its owner's eyes alone (0700).

    One that is there keeps its permissions, which may be wider on purpose: `retune doctor` tells.
    Raises NotOurs and BadName, see `own_home`.
    """
    folder = own_home()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def lock_file(name: str) -> Path:
    """Return the file of a lock that processes of this home folder have in common."""
    folder = make_home() / "locks"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder / f"{name}.lock"


def keep_private() -> None:
    """Let what this process and its children write be read by their owner alone (umask 077)."""
    os.umask(0o077)


def cache_dir() -> Path:
    """Folder of built tools, shared by all projects of a user: `$XDG_CACHE_HOME/retune`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "retune"


def _users_home() -> Path:
    # Path.home() raises for a user without a name, as in many containers.
    return Path(os.path.expanduser("~")).resolve()  # noqa: PTH111


def mark(folder: Path) -> Path:
    """Return `folder`, made if need be, as one whose contents retune may remove.

    Raises NotOurs if it holds anything that came before the marker.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not is_marked(folder.resolve()):
        if entry := next(folder.iterdir(), None):
            raise NotOurs(
                f"{folder} holds {entry.name!r:.80}, which retune did not make; name another folder"
            )
        (folder / MARKER).touch()
    return folder


def mark_stage(folder: Path) -> None:
    """Make and mark the folder of a stage's outputs; one of before there were markers is known by
    the names in it. Raises NotOurs."""
    folder.mkdir(parents=True, exist_ok=True)
    ours = r"[0-9a-f]{16}(\.partial|\.pulling)?(\.lock|\.use)?"
    if all(re.fullmatch(ours, path.name) for path in folder.iterdir()):
        (folder / MARKER).touch()
    mark(folder)


def is_marked(folder: Path) -> bool:
    """Tell whether retune made `folder`. A link to a folder is not one."""
    return (folder / MARKER).is_file() and not folder.is_symlink()


def remove(path: Path) -> None:
    """Remove a file, a link or a folder, if it is there; links are not followed.

    Raises NotOurs unless it is, or lies in, a folder that retune made; and for one that holds the
    home folder, retune's or the user's.
    """
    if not os.path.lexists(path):
        return
    # The way to it is resolved, so that neither `..` nor a link leads out of the marked folder.
    place = path.parent.resolve() / path.name if path.name not in ("", "..") else path.resolve()
    if any(protected.is_relative_to(place) for protected in (home().resolve(), _users_home())):
        raise NotOurs(f"{path} is not removed: {place} holds more than retune made")
    if not any(map(is_marked, (place, *place.parents))):
        raise NotOurs(f"{path} is not removed: retune did not make it ({MARKER} is not there)")
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink()
