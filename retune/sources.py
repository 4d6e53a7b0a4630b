"""Inputs by name: what a recipe's dataset or base model refers to, and its exact version."""

import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from retune.errors import HubUnreachable, RetuneError
from retune.files import files_in, sha256
from retune.folders import plain_files

DATA_FORMATS = {
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".arrow": "arrow",
}
COMMIT = re.compile(r"[0-9a-f]{40}")
_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


class SourceError(RetuneError):
    """A dataset or model that cannot be had, with the reason and what to change."""


class HubOffline(SourceError):
    """The Hub is not asked, since HF_HUB_OFFLINE is set; no retry helps."""


def local_path(name: str, setting: str) -> Path | None:
    """Return the file or folder that `name` refers to, None if it is a Hub id.

    `setting` is the recipe's key, for the error. Raises SourceError when `name` can only be a path
    and nothing is there.
    """
    path = Path(name).expanduser()
    if path.exists():
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # reading a pipe or /dev/zero never ends
            raise SourceError(f"{setting}: {name!r} is no file and no folder; correct the path")
        return path.absolute()
    looks_like_file = path.suffix.lower() in DATA_FORMATS or name.startswith((".", "/", "~"))
    if looks_like_file or not _HUB_ID.fullmatch(name):
        raise SourceError(
            f"{setting}: nothing is at {name!r} (looked in {Path.cwd()}); correct the path, or name a "
            f"Hub id such as mlabonne/FineTome-100k"
        )
    return None


def pin_file(name: str, setting: str) -> str:
    """Return `sha256:<digest>` of a local file. Raises SourceError when there is none."""
    path = Path(name).expanduser()
    if not path.is_file():
        raise SourceError(
            f"{setting}: no file is at {name!r} (looked in {Path.cwd()}); correct the path"
        )
    return f"sha256:{sha256(path)}"


@contextmanager
def unchanged(name: str | Path | None, pinned: str | None, setting: str) -> Iterator[None]:
    """Hold what is read of a local file or folder within the block to what was pinned.

    Raises SourceError at its end, and instead of what the block raises, when that is no longer
    what `pinned` says; for a folder at its beginning, too. A file is opened once, before it is read:
    it is its content that is hashed, and the name must still lead to it. A commit stays what it is.
    """
    if not name or not pinned or not pinned.startswith("sha256:"):
        yield
        return
    path, error = Path(name).expanduser().absolute(), changed(name, setting)
    if path.is_dir():
        require_unchanged(name, pinned, setting)
        try:
            yield
        finally:
            if not path.is_dir() or _version(path) != pinned:
                raise error
        return
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise error from None
    with file:
        before = _identity(os.fstat(file.fileno()))
        try:
            yield
        finally:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            after = (
                {_identity(os.fstat(file.fileno())), _identity(path.stat())}
                if path.exists()
                else ()
            )
            if after != {before} or f"sha256:{digest}" != pinned:
                raise error


def require_unchanged(name: str | Path, pinned: str, setting: str) -> None:
    """Raise SourceError unless a local folder is what was pinned. Any commit is."""
    path = Path(name).expanduser().absolute()
    if pinned.startswith("sha256:") and not (path.is_dir() and _version(path) == pinned):
        raise changed(name, setting)


def changed(name: str | Path, setting: str) -> SourceError:
    return SourceError(
        f"{setting}: {name} changed while the run was reading it; run again, when nothing writes to it"
    )


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


# Folders and sets of files that were hashed: how they looked before, and their version.
_hashed: dict[tuple[Path, tuple[str, ...]], tuple[dict[str, tuple[int, ...]], str]] = {}


def _version(path: Path) -> str:
    """Return `sha256:<digest>` of a local file or folder."""
    if not path.is_dir():
        return f"sha256:{sha256(path)}"
    return _unless_hashed(path, (), lambda: files_in(path), lambda: sha256(path))


def version_of(root: Path, names: tuple[str, ...]) -> str:
    """Return `sha256:<digest>` of some files of a folder: of their names there and contents, of a single
    one of the content alone."""
    if len(names) == 1:
        return f"sha256:{sha256(root / names[0])}"

    def hashed() -> str:
        listing = {name: sha256(root / name) for name in names}
        return hashlib.sha256(json.dumps(listing).encode()).hexdigest()

    return _unless_hashed(root, names, lambda: {name: root / name for name in names}, hashed)


def _unless_hashed(
    root: Path,
    names: tuple[str, ...],
    files: Callable[[], dict[str, Path]],
    hashed: Callable[[], str],
) -> str:
    """Return the version of files. What looks as it did is not hashed again: a large model takes a
    minute, in every stage."""
    listing = _listing(files())
    former, version = _hashed.get((root, names), ({}, ""))
    if not version or former != listing:
        version = f"sha256:{hashed()}"
        # As it was before: what changed while it was hashed is seen next time.
        _hashed[root, names] = listing, version
    return version


def _listing(files: dict[str, Path]) -> dict[str, tuple[int, ...]]:
    """Return what tells by itself that a file was changed; ctime is not for programs to set."""
    listing = {}
    for name, path in files.items():
        with suppress(OSError):  # it has gone, which the next look shows
            status = path.stat()
            listing[name] = (*_identity(status), status.st_ctime_ns, status.st_mode)
    return listing


def pin(name: str, revision: str | None, kind: Literal["dataset", "model"], setting: str) -> str:
    """Return the exact version of an input: a Hub commit, or `sha256:<digest>` of local files.

    Raises SourceError when it does not exist or may not be read, HubUnreachable when the Hub
    cannot be reached (worth a retry), ModelRefused for a model's folder with links that leave it.
    """
    path = local_path(name, setting)
    if path:
        if kind == "model" and path.is_dir():
            plain_files(path, setting)  # what a link leads to may have no end to hash
        return _version(path)

    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        GatedRepoError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    with asking_hub(name, kind, setting, SourceError):
        try:
            commit = HfApi().repo_info(name, revision=revision, repo_type=kind).sha
            assert commit, "the Hub tells the commit of a revision that there is"
            return commit
        except RevisionNotFoundError:
            raise SourceError(
                f"{setting}: {kind} {name} has no revision {revision!r}; use a branch, tag or commit of "
                f"it"
            ) from None
        except GatedRepoError:
            raise  # it is a RepositoryNotFoundError, too
        except RepositoryNotFoundError:
            raise SourceError(
                f"{setting}: no {kind} {name!r} on the Hub, or no right to read it; correct the id, give "
                f"a path, or set HF_TOKEN if it is private"
            ) from None
        except OfflineModeIsEnabled:
            raise HubOffline(
                f"{setting}: {kind} {name} is on the Hub but HF_HUB_OFFLINE is set; unset it or give a "
                f"path"
            ) from None


@contextmanager
def asking_hub(
    name: str, kind: Literal["dataset", "model"], setting: str, refusal: type[RetuneError]
) -> Iterator[None]:
    """Say of a request to the Hub, as `refusal`, that its terms are not accepted, and as
    HubUnreachable that it was not answered."""
    import httpx
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

    try:
        yield
    except GatedRepoError:
        raise refusal(
            f"{setting}: {kind} {name} is gated; accept its terms on the Hub and set HF_TOKEN"
        ) from None
    except (HfHubHTTPError, httpx.HTTPError) as error:
        raise HubUnreachable(
            f"{setting}: the Hub did not answer for {kind} {name} ({type(error).__name__}); check the "
            f"network, or give a local path"
        ) from error
