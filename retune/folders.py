"""The files of a model's folder, none of which lies elsewhere."""

from pathlib import Path


class ModelRefused(ValueError):
    """A model that is not loaded, with what was seen in it and what to do."""


def plain_files(folder: Path, setting: str) -> dict[str, int]:
    """Return the bytes of each file below `folder` by its path there; hidden ones are left out.

    A link may lead to another file of the folder, or into the Hub's own cache. Raises ModelRefused
    for any other, which could lead to a secret or to something endless, and for what is no file.
    """
    sizes = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        _require_inside(path, folder, setting)
        if path.is_file():
            if "/." not in f"/{name}":
                sizes[name] = path.stat().st_size
        elif not path.is_dir():
            raise ModelRefused(
                f"{setting}: {name} of {folder} is no file; remove it, or take the model from its "
                f"publisher again"
            )
    return sizes


def _require_inside(path: Path, folder: Path, setting: str) -> None:
    if not path.is_symlink():
        return
    target, root = path.resolve(), folder.resolve()
    places = [root]
    # models--x--y/snapshots/<commit>/file -> ../../blobs/<hash>
    if root.parent.name == "snapshots":
        places.append(root.parents[1] / "blobs")
    if not any(target.is_relative_to(place) for place in places):
        raise ModelRefused(
            f"{setting}: {path.relative_to(folder)} of {folder} is a link to {target}, outside the "
            f"folder; put the file itself there, or name the folder that holds it"
        )
