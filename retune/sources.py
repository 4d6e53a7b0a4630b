"""Inputs by name: what a recipe's dataset or base model refers to, and its exact version."""

import hashlib
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from retune.errors import HubUnreachable, RetuneError
from retune.folders import plain_files
from retune.recipe import Classifier, Recipe
from retune.records import Pins
from retune.tracking import last_accepted
from retune.workspace import files_in, sha256

DATA_FORMATS = {
    ".jsonl": "json",
    ".json": "json",
    ".parquet": "parquet",
    ".csv": "csv",
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


def pin_all(recipe: Recipe) -> Pins:
    """Return the exact versions of a recipe's inputs. Raises as `pin` does."""
    model, dataset, merging = recipe.model, recipe.dataset, recipe.merging
    benchmarks = recipe.validation.decontamination.files
    version = pin(dataset.source, dataset.revision, "dataset", "dataset.source")
    return Pins(
        dataset=version,
        model=pin(model.base, model.revision, "model", "model.base"),
        base_16bit=merging.base_16bit
        and pin(merging.base_16bit, merging.base_16bit_revision, "model", "merging.base_16bit"),
        benchmarks=tuple(pin_file(name, "validation.decontamination.files") for name in benchmarks),
        classifier=_pin_classifier(recipe.validation.classifier),
        accepted=last_accepted(recipe, version),
    )


def resolved(recipe: Recipe, pins: Pins) -> Recipe:
    """Return the recipe with every revision that is on the Hub as the commit that it stood for.

    Run again, on any day, it asks for the same inputs.
    """

    def commit(pin: str | None, revision: str | None) -> str | None:
        return (pins.commit(pin) if pin else None) or revision

    model, dataset, merging = recipe.model, recipe.dataset, recipe.merging
    classifier = recipe.validation.classifier
    fixed = {
        "model": {"revision": commit(pins.model, model.revision)},
        "dataset": {"revision": commit(pins.dataset, dataset.revision)},
        "merging": {"base_16bit_revision": commit(pins.base_16bit, merging.base_16bit_revision)},
        "validation": {
            "classifier": classifier.model_copy(
                update={"revision": commit(pins.classifier, classifier.revision)}
            )
        },
    }
    return recipe.model_copy(
        update={
            name: getattr(recipe, name).model_copy(update=settings)
            for name, settings in fixed.items()
        }
    )


def _pin_classifier(config: Classifier) -> str | None:
    """Return the version of the classifier, None if it is not used.

    With `score: absent` the rows decide whether it is used. The Hub is not asked then: a run on rows
    that have their scores needs no network, and must have the same pins with one and without.
    """
    setting = "validation.classifier.model"
    is_used = config.score in ("all", "missing") or config.sample
    if config.score == "never" and not config.sample:
        return None
    if is_used or local_path(config.model, setting):
        return pin(config.model, config.revision, "model", setting)
    return config.revision if COMMIT.fullmatch(config.revision or "") else None


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
    path, error = Path(name).expanduser().absolute(), _changed(name, setting)
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
        raise _changed(name, setting)


def _changed(name: str | Path, setting: str) -> SourceError:
    return SourceError(
        f"{setting}: {name} changed while the run was reading it; run again, when nothing writes to it"
    )


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


# Folders that were hashed, by path: how they looked before, and their version.
_hashed: dict[Path, tuple[dict[str, tuple[int, ...]], str]] = {}


def _version(path: Path) -> str:
    """Return `sha256:<digest>` of a local file or folder.

    A folder that looks as it did is not hashed again: a large model takes a minute, in every stage.
    """
    if not path.is_dir():
        return f"sha256:{sha256(path)}"
    listing = _listing(path)
    former, version = _hashed.get(path, ({}, ""))
    if not version or former != listing:
        version = f"sha256:{sha256(path)}"
        # As it was before: what changed while it was hashed is seen next time.
        _hashed[path] = listing, version
    return version


def _listing(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return what tells by itself that a file was changed; ctime is not for programs to set."""
    listing = {}
    for name, path in files_in(folder).items():
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
