"""Datasets at an address (`https://…`, `s3://…`): copied once, and again when they have changed there.

A confined child with the network copies; it opens nothing of what it copies. What lies in
`downloads/` of the home folder is known by its content alone: that is what a run is pinned to. One
copy may be pinned several times: parts of a mix can be other files of it.
"""

import hashlib
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from filelock import FileLock
from pydantic import BaseModel, ValidationError

from retune.child import Event
from retune.confined import ConfinedJob, limits, run_confined
from retune.environment import cloud
from retune.files import write_whole
from retune.home import home, make_home, mark, remove
from retune.recipe import Dataset
from retune.sources import SourceError

CHILD = Path(__file__).with_name("download_child.py")


class DownloadJob(ConfinedJob):
    """What is to be copied, and where to: nowhere, if it is only asked for. `former` is how the server
    named what is there already."""

    address: str
    folder: Path | None
    limit: int  # bytes
    former: str | None


class Copy(BaseModel):
    """What was copied: how the server names this version, None if it does not, and the pins of what
    was read of it."""

    tag: str | None
    folder: str
    pins: tuple[str, ...] = ()


def downloaded(
    dataset: Dataset,
    version: Callable[[Path], str],
    pin: str | None = None,
    sibling: str | None = None,
) -> Path:
    """Return the folder with a copy of what is at the dataset's address.

    `version` tells what a folder's files are by their content; with `pin`, a copy that was that is not
    asked for again, nor one of which `sibling`, other files of the same address, was just pinned.
    Raises SourceError for what cannot be had or is larger than the recipe allows, HubUnreachable (worth a
    retry) when the server does not answer.
    """
    place = _place(dataset.source)
    mark(mark(make_home() / "downloads") / place.name)
    with FileLock(place / "lock"):
        former = _former(place)
        if former and pin in former.pins:
            return place / former.folder
        copy = former if former and sibling in former.pins else _copied(dataset, place, former)
        folder = place / copy.folder
        pins = tuple(dict.fromkeys([*copy.pins, version(folder)]))
        write_whole(place / "copy.json", copy.model_copy(update={"pins": pins}).model_dump_json())
        if former and former.folder != copy.folder:
            remove(place / former.folder)
        return folder


def known(dataset: Dataset) -> Path | None:
    """Return the folder with a copy of what is at the dataset's address now; None where a run would
    copy it. Asks the server, and writes nothing. Raises as `downloaded` does."""
    place = _place(dataset.source)
    former = _former(place)
    with tempfile.TemporaryDirectory() as folder:
        event = _asked(dataset, None, former, Path(folder) / "download.log")
    return place / former.folder if former and event.get("unchanged") else None


def _place(address: str) -> Path:
    return home() / "downloads" / hashlib.sha256(address.encode()).hexdigest()[:32]


def _former(place: Path) -> Copy | None:
    with suppress(OSError, ValidationError):
        copy = Copy.model_validate_json((place / "copy.json").read_text())
        return copy if (place / copy.folder).is_dir() else None
    return None


def _copied(dataset: Dataset, place: Path, former: Copy | None) -> Copy:
    """Return what is there now: the former copy if the server says that it still is that."""
    folder = place / ("a" if former and former.folder == "b" else "b")
    remove(folder)
    folder.mkdir()
    event = _asked(dataset, folder, former, place / "download.log")
    if event.get("unchanged"):
        assert former, "the server was asked about one"
        remove(folder)
        return former
    if not any(folder.iterdir()):
        raise SourceError(f"dataset.source: nothing is at {dataset.source}; correct the address")
    return Copy(tag=event["tag"], folder=folder.name)


def _asked(dataset: Dataset, folder: Path | None, former: Copy | None, log: Path) -> Event:
    job = DownloadJob(
        address=dataset.source,
        folder=folder,
        limit=dataset.max_unpacked_bytes,
        former=former.tag if former else None,
        **limits(dataset),
    )
    return run_confined(CHILD, job, log, f"dataset.source: {dataset.source}", environment=cloud())
