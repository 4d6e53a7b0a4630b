"""The folder of a report: what stands in it is replaced file by file, once the new report is whole.

A report may go to any folder that a person names. So retune writes down which files are its own, and
touches no folder that holds another one.
"""

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import BaseModel, ValidationError

from retune.building import OutputBusy
from retune.files import digest
from retune.home import MARKER, NotOurs, home, is_marked, mark, remove

# Whatever a report may hold: a marker that came with a stranger's folder must not name another file.
REPORT = {
    *("report.json", "expectations.json", "scores.json", "rows.parquet", "features.parquet"),
    *("examples.parquet", "quarantine.parquet", "quarantine_rows.parquet"),
    *("reasons.png", "scores.png", "data_docs/index.html", "report.html"),
    *("ignored.json", "repairs.json", "repaired.parquet"),
    *("profile.json", "profile_alarms.json", "profile.parquet", "profile_words.parquet"),
    *("profile_signs.json", "reference.json"),
}
PARTIAL = ".partial"  # where a report is under construction, inside the folder it is for


class Listing(BaseModel):
    """What a report's marker says: of what it is, and its files, relative to the folder."""

    of: str = ""
    files: frozenset[str] = frozenset()


def report_folder(dataset: str) -> Path:
    """Return the folder of a dataset's report when none is named: `<home>/validate/<its name>`.

    A hash of the path is added if the report of another dataset of this name is there, and stays
    when that one goes: a dataset has one report.
    """
    of = _whole(dataset)
    name = re.sub(r"[^\w.-]+", "-", Path(dataset).stem)[:60].strip("-.") or "dataset"
    folder = home() / "validate" / name
    own = folder.with_name(f"{name}-{digest(of)[:8]}")
    return own if own.exists() or (folder.exists() and _listing(folder).of != of) else folder


def _whole(dataset: str) -> str:
    """Return the dataset's path from the root, written in one way; a link stays one, since what it
    leads to may change."""
    return os.path.normpath(Path(dataset).absolute())


@contextmanager
def replacing(folder: Path, dataset: str) -> Iterator[Path]:
    """Give an empty folder to write the report of `dataset` into, for `folder` to hold in the end.

    `folder` may be new, empty, or hold an earlier report and nothing else; until the block ends
    well nothing in it is changed. Raises NotOurs, and OutputBusy while another process writes there.
    """
    folder = folder.resolve()
    require_ours(folder)
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        is_empty = not is_marked(folder)
        mark(folder)
        if is_empty:  # from now on, so that a dataset of the same name takes another folder
            (folder / MARKER).write_text(Listing(of=_whole(dataset)).model_dump_json())
        remove(folder / PARTIAL)
        (folder / PARTIAL).mkdir()
        try:
            yield folder / PARTIAL
        except BaseException:
            remove(folder if is_new else folder / PARTIAL)
            if is_empty:
                remove(folder / MARKER)
            raise
        _move_in(folder, _whole(dataset))


def require_ours(folder: Path) -> None:
    """Raise NotOurs if anything is at `folder` but a report that retune wrote, or an empty folder."""
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise NotOurs(f"{folder} is not a folder; name another with --out")
    files = _files(folder)
    if files and not is_marked(folder):
        raise NotOurs(
            f"{folder} is not empty and no report of retune's; name a new or empty folder with --out"
        )
    links = {name for name in files if (folder / name).is_symlink()}  # a report has none
    if foreign := sorted(files - _listing(folder).files | links):
        raise NotOurs(
            f"{folder} holds {foreign[0]!r:.80}, which is not of retune's report there; move it away, "
            f"or name another folder with --out"
        )


def _move_in(folder: Path, of: str) -> None:
    """Make the files under construction those of `folder`; what is no longer written goes."""
    new, old = _files(folder / PARTIAL), _listing(folder).files
    # First of both: a process that is killed meanwhile leaves nothing that is nobody's.
    marker = folder / MARKER
    marker.write_text(Listing(of=of, files=new | old).model_dump_json())
    for name in new:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / PARTIAL / name).replace(folder / name)
    for name in (_files(folder) & old) - new:
        remove(folder / name)
        with suppress(OSError):  # something else is in it
            (folder / name).parent.rmdir()
    remove(folder / PARTIAL)
    marker.write_text(Listing(of=of, files=new).model_dump_json())


def _files(folder: Path) -> frozenset[str]:
    """Return all files and links below `folder` but for the marker and what is under construction."""
    names = set()
    for path, folders, files in os.walk(folder):
        parent = Path(path)
        links = [name for name in folders if (parent / name).is_symlink()]
        names |= {str((parent / name).relative_to(folder)) for name in (*files, *links)}
    return frozenset(
        name for name in names if name != MARKER and not name.startswith(f"{PARTIAL}/")
    )


def _listing(folder: Path) -> Listing:
    try:
        listing = Listing.model_validate_json((folder / MARKER).read_bytes())
    except (OSError, ValidationError):
        return Listing()
    return listing.model_copy(update={"files": listing.files & REPORT})


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputBusy(
                f"another process writes a report to {folder}; wait for it, or name another with --out"
            ) from None
        yield
    finally:
        os.close(descriptor)
