"""The folder of what serves: `<home>/serving/<recipe>/`, the champion's files under fixed names.

It is a link to a folder of a version, and a promotion or rollback replaces the link: a reader sees
the files of one version or of the other. They are hard links to the outputs, so they take no space,
and those of the champion and of the one before it stay when an output is deleted.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from retune.files import write_json
from retune.home import home, make_home, mark, remove
from retune.outputs import here
from retune.recipe.methods import RECOMMENDED
from retune.registry import RegisteredVersion, RegistryError
from retune.registry.candidates import FILE

ABOUT = "serving.json"
STORE = ".versions"  # below the serving folder, by recipe and version
MODELFILE = "Modelfile"


class FilesGone(RegistryError):
    """What a version would serve is not on this machine any more."""


class ServedFile(NamedTuple):
    """A file or folder that is served: where it lies, and its name there."""

    path: Path
    name: str


def folder_of(name: str) -> Path:
    """Return the folder of what serves of a recipe; it may not be there."""
    return home() / "serving" / name


def serves_here(name: str) -> bool:
    """Tell whether this home has a serving folder of the recipe."""
    return folder_of(name).is_symlink() or _is_copied(folder_of(name))


def require_files(version: RegisteredVersion) -> None:
    """Raise FilesGone unless everything that `version` serves is on this machine."""
    missing = _missing(version)
    if missing and not _kept(version):
        raise FilesGone(
            f"the files of {version} are gone: {missing[0]} is not there; run its recipe again (MLflow "
            f"has it in the run {version.run_id}), or name another version"
        )


def serve(version: RegisteredVersion, also: set[int]) -> Path:
    """Let the serving folder of a recipe hold the files of `version`, and return it.

    Of the versions in `also` the files stay, of all others that served they are removed from here.
    Raises FilesGone, with the folder as it was.
    """
    require_files(version)
    make_home()
    mark(home() / "serving" / STORE)
    store = _kept(version) if _missing(version) else _build(version)
    assert store, "what is required is there"
    link = folder_of(version.name)
    with tempfile.TemporaryDirectory(dir=link.parent, prefix=".next-") as beside:
        fresh = Path(beside) / version.name
        fresh.symlink_to(store.relative_to(link.parent))
        if _is_copied(link):
            link.rename(Path(beside) / "copied")
        fresh.replace(link)
    for folder in store.parent.iterdir():
        number = folder.name.partition(".")[0]
        if folder != store and (number == str(version.number) or int(number or 0) not in also):
            remove(folder)
    return link


def _is_copied(link: Path) -> bool:
    """Tell whether a serving folder is the files themselves: whoever copied the home followed links."""
    return not link.is_symlink() and (link / ABOUT).is_file()


def _missing(version: RegisteredVersion) -> list[Path]:
    return [part.path for part in _parts(version) if not part.path.exists()]


def _kept(version: RegisteredVersion) -> Path | None:
    """Return the folder that served a version, if it is there still."""
    folders = (home() / "serving" / STORE / version.name).glob(f"{version.number}.*")
    return next((folder for folder in sorted(folders) if (folder / ABOUT).is_file()), None)


def _build(version: RegisteredVersion) -> Path:
    """Make and return a folder of a version's files; what it served until now stays as it is."""
    folder = home() / "serving" / STORE / version.name
    folder.mkdir(parents=True, exist_ok=True)
    store = Path(tempfile.mkdtemp(dir=folder, prefix=f"{version.number}."))
    parts = list(_parts(version))
    for part in parts:
        _link(part.path, store / part.name)
    if main := _recommended(store):
        _link(store / main, store / MODELFILE)
    files = [part.name for part in parts]
    write_json(
        store / ABOUT, {"model": str(version), "run": version.run_id, "files": files}
    )  # last: then it is whole
    return store


def _parts(version: RegisteredVersion) -> Iterator[ServedFile]:
    """Yield what a version serves: its GGUF files with their Modelfiles, else its weights."""
    files = [json.loads(text) for key, text in sorted(version.tags.items()) if key.startswith(FILE)]
    for file in files:
        folder = here(file["folder"])
        yield ServedFile(folder / file["file"], file["file"])
        modelfile = Path(file["file"]).with_suffix(".Modelfile").name
        if (folder / modelfile).exists():
            yield ServedFile(folder / modelfile, modelfile)
    if not files:
        folder = here(f"train/{version.tags.get('retune.adapter', '?')}")
        yield ServedFile(folder / "adapter", "adapter")


def _recommended(folder: Path) -> str | None:
    """Return the Modelfile of the file to run first: the recommended method's, else the middle one."""
    files = sorted(folder.glob("*.gguf"), key=lambda path: path.stat().st_size)
    named = [path for path in files if path.stem.upper().endswith(RECOMMENDED.upper())]
    for path in (*named, *files[len(files) // 2 :], *files):
        modelfile = path.with_suffix(".Modelfile")
        if modelfile.exists():
            return modelfile.name
    return None


def _link(source: Path, target: Path) -> None:
    """Link a file, or all files of a folder; where no hard link can be, copy it."""
    if source.is_dir():
        shutil.copytree(source, target, copy_function=_link_file)
    else:
        _link_file(source, target)


def _link_file(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copy2(source, target)
