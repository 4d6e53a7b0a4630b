"""What an output consists of: the size and sha256 of each of its files, noted when it is made.

Whoever asks for a hash later reads no file again, and a copy on another machine is verified by it.
"""

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from pydantic import BaseModel, ConfigDict

from retune.files import files_in, sha256

RECORD = "output.json"  # in a finished output, and nowhere else: what it is
MAKER = "made-by.json"  # in a finished output: the MLflow run that made it
REJECTED = "rejected.json"  # in a finished output that failed its gate: why
AT_ONCE = 4  # files that are hashed side by side; more would wait for the disk
NOTHING: Mapping[str, str] = MappingProxyType({})


class FileEntry(BaseModel):
    """The bytes and the sha256 of a file, or of all files in a folder (see `retune.files.sha256`)."""

    model_config = ConfigDict(frozen=True)

    bytes: int
    sha256: str


Manifest = dict[str, FileEntry]  # by path below the output's folder, with slashes


def manifest_of(folder: Path, known: Mapping[str, str] = NOTHING) -> Manifest:
    """Return the entry of each file in a folder that is not hidden. `known` are the sha256 of files
    that were hashed while they were written."""
    files = files_in(folder)

    def entry(name: str) -> FileEntry:
        path = files[name]
        return FileEntry(
            bytes=path.stat().st_size, sha256=known[name] if name in known else sha256(path)
        )

    with ThreadPoolExecutor(AT_ONCE) as pool:  # hashing lets other threads run
        return dict(zip(files, pool.map(entry, files), strict=True))


def entry_of(manifest: Manifest, name: str) -> FileEntry | None:
    """Return the entry of a file, or that of a folder by those of its files, as `sha256` reckons it;
    None if there is none."""
    if name in manifest:
        return manifest[name]
    inside = below(manifest, name)
    if not inside:
        return None
    start = len(name) + 1
    listing = {path[start:]: inside[path].sha256 for path in sorted(inside, key=_place)}
    digest = hashlib.sha256(json.dumps(listing).encode()).hexdigest()
    return FileEntry(bytes=sum(entry.bytes for entry in inside.values()), sha256=digest)


def below(manifest: Manifest, *names: str) -> Manifest:
    """Return the entries of files, and of what lies in folders, by their names."""
    return {
        path: entry
        for path, entry in manifest.items()
        if any(path == name or path.startswith(f"{name}/") for name in names)
    }


def _place(path: str) -> tuple[str, ...]:
    """Return what paths are sorted by: `a/b` comes before `a.b`."""
    return PurePosixPath(path).parts
