"""The files of a model's folder, none of which lies elsewhere."""

from pathlib import Path

from retune.errors import RetuneError


class ModelRefused(RetuneError):
    """A model that is not loaded, with what was seen in it and what to do."""


def plain_files(folder: Path, setting: str) -> dict[str, int]:
    """Return the bytes of each file below `folder` by its path there; hidden ones are left out.

    A link may lead to another file of the folder, or into the Hub's own cache. Raises ModelRefused
    for any other, which could lead to a secret or to something endless, and for what is no file.
    """
    sizes = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            require_inside(path, folder, setting, ModelRefused)
        if path.is_file():
            if "/." not in f"/{name}":
                sizes[name] = path.stat().st_size
        elif not path.is_dir():
            raise ModelRefused(
                f"{setting}: {name} of {folder} is no file; remove it, or take the model from its "
                f"publisher again"
            )
    return sizes


def exists(path: Path) -> bool:
    """Tell whether a program of this user would find anything at a path that a stranger wrote.

    Path.exists raises for one that is too long, or in a folder that may not be looked into (/root).
    """
    try:
        return path.expanduser().exists()
    except (OSError, RuntimeError):  # the latter for the home of a user who is not there
        return False


def blobs_of(folder: Path) -> Path | None:
    """Return where huggingface_hub's cache keeps what the links in `folder` lead to; None if that is
    no folder of a commit: models--x--y/snapshots/<commit>/file -> ../../blobs/<hash>."""
    return folder.parents[1] / "blobs" if folder.parent.name == "snapshots" else None


def require_inside(path: Path, folder: Path, setting: str, refusal: type[RetuneError]) -> None:
    """Raise `refusal` for what a link leads out of a folder, but into the Hub's own cache."""
    target, root = path.resolve(), folder.resolve()
    places = (root, blobs_of(root))
    if not any(place and target.is_relative_to(place) for place in places):
        raise refusal(
            f"{setting}: {path.relative_to(folder)} of {folder} is a link to {target}, outside the "
            f"folder; put the file itself there, or name the folder that holds it"
        )
