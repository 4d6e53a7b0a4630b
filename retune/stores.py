"""Files from a cloud's store, by fsspec: one, those below a folder, or those of a pattern."""

import errno
import hashlib
import json
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from retune.confined import alive, causes
from retune.recipe.address import SCHEMES
from retune.sources import SourceError
from retune.writing import Limited

_PIECE = 1 << 20
_MOST_FILES = 100_000
# What a store tells of a file that changes with it; each has its own words.
_VERSION = (
    "ETag",
    "etag",
    "md5Hash",
    "content_md5",
    "generation",
    "VersionId",
    "LastModified",
    "mtime",
)


def copy(address: str, folder: Path | None, limit: int, former: str | None) -> dict[str, Any]:
    """Copy what is at an address into `folder`. Returns `tag`, which changes with it, or `unchanged` if
    that is `former`. Without a folder it is only asked for.

    Raises SourceError for what cannot be had, ConnectionError when the store does not answer.
    """
    try:
        import fsspec.core

        store, path = fsspec.core.url_to_fs(address)
        return copy_files(store, path, address, folder, limit, former)
    except SourceError:
        raise
    except ImportError:
        needed = SCHEMES[urlsplit(address).scheme]
        raise SourceError(
            f"dataset.source: {address} is read with {needed}, which is not installed: "
            f"pip install {needed}"
        ) from None
    except Exception as error:
        raise _explained(error, address) from None


def copy_files(
    store: Any, path: str, address: str, folder: Path | None, limit: int, former: str | None
) -> dict[str, Any]:
    """Do what `copy` does, from one of fsspec's file systems."""
    found, root = _listing(store, path)
    if not found:
        raise SourceError(f"dataset.source: nothing is at {address}; correct the address")
    tag = _tag(found)
    if former and tag == former:
        return {"unchanged": True}
    if folder:
        _write(store, found, root, folder, limit, address)
    return {"tag": tag}


def _write(
    store: Any, found: dict[str, Any], root: str, folder: Path, limit: int, address: str
) -> None:
    """Copy files into a folder, as they lie below `root`."""
    left = limit
    for name in sorted(found):
        relative = name.removeprefix(root).lstrip("/") or PurePosixPath(name).name
        if _is_hidden(relative):
            continue
        out = Limited(folder / relative, left, address)
        with store.open(name, "rb") as file, out:
            while piece := file.read(_PIECE):
                alive()
                out.write(piece)
        left -= out.count


def _listing(store: Any, path: str) -> tuple[dict[str, dict[str, Any]], str]:
    """Return what the store tells of each file, by its path, and the folder that all of them are in."""
    if any(mark in path for mark in "*?["):
        found = store.glob(path, detail=True)
        root = path[: min(path.index(mark) for mark in "*?[" if mark in path)].rpartition("/")[0]
    elif store.isfile(path):
        found, root = {path: store.info(path)}, path.rpartition("/")[0]
    else:
        found, root = store.find(path, detail=True), path
    files = {name: info for name, info in found.items() if info.get("type", "file") == "file"}
    if len(files) > _MOST_FILES:
        raise SourceError(f"dataset.source: more than {_MOST_FILES:,} files; name a smaller folder")
    return files, root.rstrip("/")


def _is_hidden(name: str) -> bool:
    """Say whether a name is hidden, or could lead anywhere but below the folder it is copied into."""
    parts = name.replace("\\", "/").split("/")
    return any(part.startswith(".") or not part for part in parts)


def _tag(found: dict[str, dict[str, Any]]) -> str | None:
    """Return what changes when a file does; None if the store does not say."""
    listing = []
    for name, info in sorted(found.items()):
        version = {key: str(info[key]) for key in _VERSION if info.get(key)}
        if not version:
            return None
        listing.append([name, info.get("size"), version])
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()


def _explained(error: Exception, address: str) -> Exception:
    """Return what is to be said of what a store's library raised; its own words may hold a login."""
    names = [type(cause).__name__ for cause in causes(error)]
    if any(isinstance(cause, MemoryError) for cause in causes(error)):
        return error
    if isinstance(error, OSError) and error.errno in (
        errno.ENOSPC,
        errno.EDQUOT,
    ):  # a full disk is not the store's
        return error
    if isinstance(error, ConnectionError | TimeoutError) or any(
        word in name for name in names for word in ("Connection", "Connect", "Timeout")
    ):
        return ConnectionError(
            f"dataset.source: no answer from the store of {address} ({names[0]})"
        )
    if isinstance(error, FileNotFoundError):
        return SourceError(f"dataset.source: nothing is at {address}; correct the address")
    return SourceError(
        f"dataset.source: {address} cannot be read ({names[0]}); check the address, and this machine's "
        f"credentials for it"
    )
