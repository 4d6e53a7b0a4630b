"""Datasets at an address (`https://…`, `s3://…`): copied once, and again when they have changed there.

A confined child with the network copies; it opens nothing of what it copies. What lies in
`downloads/` of the home folder is known by its content alone: that is what a run is pinned to.
"""

import hashlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from filelock import FileLock
from pydantic import BaseModel, ValidationError

from retune.confined import ConfinedJob, limits, run_confined
from retune.environment import cloud
from retune.recipe import Dataset
from retune.sources import SourceError
from retune.workspace import make_home, mark, remove, write_whole

CHILD = Path(__file__).with_name("download_child.py")


class DownloadJob(ConfinedJob):
    """What is to be copied, and where to; `former` is how the server named what is there already."""

    address: str
    folder: Path
    limit: int  # bytes
    former: str | None


class Copy(BaseModel):
    """What was copied: how the server names this version, None if it does not, and the version's pin."""

    tag: str | None
    folder: str
    pin: str | None = None


def downloaded(dataset: Dataset, version: Callable[[Path], str], pin: str | None = None) -> Path:
    """Return the folder with a copy of what is at the dataset's address.

    `version` tells what a folder's files are by their content; with `pin`, a copy that was that is not
    asked for again. Raises SourceError for what cannot be had or is larger than the recipe allows,
    HubUnreachable (worth a retry) when the server does not answer.
    """
    place = _place(dataset.source)
    with FileLock(place / "lock"):
        former = _former(place)
        if former and pin and former.pin == pin:
            return place / former.folder
        copy = _copied(dataset, place, former)
        folder = place / copy.folder
        copy = copy.model_copy(update={"pin": version(folder)})
        write_whole(place / "copy.json", copy.model_dump_json())
        if former and former.folder != copy.folder:
            remove(place / former.folder)
        return folder


def _place(address: str) -> Path:
    name = hashlib.sha256(address.encode()).hexdigest()[:32]
    return mark(mark(make_home() / "downloads") / name)


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
    job = DownloadJob(
        address=dataset.source,
        folder=folder,
        limit=dataset.max_unpacked_bytes,
        former=former.tag if former else None,
        **limits(dataset),
    )
    subject = f"dataset.source: {dataset.source}"
    event = run_confined(CHILD, job, place / "download.log", subject, environment=cloud())
    if event.get("unchanged"):
        assert former, "the server was asked about one"
        remove(folder)
        return former
    if not any(folder.iterdir()):
        raise SourceError(f"dataset.source: nothing is at {dataset.source}; correct the address")
    return Copy(tag=event["tag"], folder=folder.name)
