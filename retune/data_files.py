"""Which local files a dataset is: one, those of a folder, of a pattern, or what `datasets` saved.

Nothing of them is opened but the few lines of JSON by which `datasets` lists what it saved.
"""

import glob
import json
import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from retune.errors import RetuneError
from retune.folders import require_inside
from retune.recipe import Dataset
from retune.recipe.address import is_address
from retune.sources import DATA_FORMATS, SourceError, local_path

PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip", ".tar", ".tgz", ".tbz2", ".txz")
_ARCHIVES = (".zip", ".tar", ".tgz", ".tbz2", ".txz")
_MOST_FILES = 100_000
_LARGEST_STATE = 16 << 20  # bytes of JSON in which `datasets` lists files
# What tools write beside rows; none of it is a row.
_NO_ROWS = {
    *("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "config.json"),
    *("metadata.json", "package.json"),
}
# Splits as files and folders name them: train-00000-of-00002.parquet, test/0.jsonl, my_dev.csv.
_SPLITS = {
    "train": "train training",
    "validation": "validation valid val dev",
    "test": "test testing eval evaluation",
}
_SPLIT = {word: split for split, words in _SPLITS.items() for word in words.split()}
_WORD = re.compile(r"[A-Za-z]+")


class DataFiles(NamedTuple):
    """The files of a dataset: their paths below `root`, in order, and their format (a value of
    DATA_FORMATS), None where only what is packed in them can tell."""

    root: Path
    names: tuple[str, ...]
    kind: str | None

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(self.root / name for name in self.names)


def selected(dataset: Dataset) -> DataFiles | None:
    """Return the local files that a dataset is, None for a Hub id. Raises SourceError."""
    source = dataset.source
    if is_pattern(source):
        return _of_pattern(source)
    path = local_path(source, "dataset.source")
    if path is None:
        return None
    if path.is_dir():
        return of_folder(path, dataset)
    return DataFiles(path.parent, (path.name,), _kind([path.name], source))


def copied(folder: Path, dataset: Dataset) -> DataFiles:
    """Return the files that a dataset at an address is, of the copy of it in a folder."""
    names = _files_below(folder, dataset.source)
    if len(names) != 1 or "/" in names[0]:
        return of_folder(folder, dataset)
    name = names[0]
    # An address may end in anything: then the content tells.
    kind = DATA_FORMATS.get(suffix_of(name))
    return DataFiles(folder, (name,), kind)


def is_pattern(source: str) -> bool:
    """Say whether a source is a pattern of local files; a file may be called like one."""
    return (
        glob.has_magic(source) and not is_address(source) and not Path(source).expanduser().exists()
    )


def names_data(source: str) -> bool:
    """Say whether a word on the command line can only be data: a file of rows, a folder, a pattern, an
    address."""
    return (
        suffix_of(source) in DATA_FORMATS
        or source.lower().endswith(PACKED)
        or is_address(source)
        or is_pattern(source)
        or Path(source).is_dir()
    )


def suffix_of(name: str) -> str:
    """Return what a name says of the format: `.jsonl` for d.jsonl.gz; `.zip` for what holds files,
    empty for nothing that is known."""
    path = PurePosixPath(name.lower())
    while path.suffix in PACKED and path.suffix not in _ARCHIVES:
        path = path.with_suffix("")
    if path.suffix in _ARCHIVES and PurePosixPath(path.stem).suffix in DATA_FORMATS:
        return PurePosixPath(path.stem).suffix  # d.jsonl.zip
    return path.suffix if path.suffix in DATA_FORMATS or path.suffix in _ARCHIVES else ""


def _kind(names: Iterable[str], source: str) -> str | None:
    """Return the format of files, None where what is packed in them tells. Raises SourceError for files
    of several formats, and for one that is of none."""
    return one_kind(names, source, "dataset.data_files")


def is_of_rows(name: str) -> bool:
    """Say whether a file is one of rows, by its name."""
    return suffix_of(name) in DATA_FORMATS and PurePosixPath(name).name not in _NO_ROWS


def one_kind(names: Iterable[str], source: str, setting: str) -> str | None:
    """Do what `_kind` does; `setting` is what chooses among the files."""
    by_suffix: dict[str, str] = {}
    for name in names:
        suffix = suffix_of(name)
        if not suffix and not name.lower().endswith(PACKED):
            raise SourceError(
                f"dataset.source: cannot read {PurePosixPath(name).name!r}; use one of "
                f"{', '.join(DATA_FORMATS)}, as such or packed ({', '.join(PACKED)})"
            )
        by_suffix.setdefault({".ndjson": ".jsonl"}.get(suffix, suffix), name)
    if len(by_suffix) > 1:
        shown = ", ".join(by_suffix.values())
        first = next(iter(by_suffix)) or "*"
        raise SourceError(
            f"dataset.source: {source} holds files of several formats ({shown}); choose with {setting}, "
            f"such as *{first}"
        )
    return DATA_FORMATS.get(next(iter(by_suffix), ""))


def pattern_root(pattern: str) -> Path:
    """Return the folder in which a pattern is looked for: what comes before its first wildcard."""
    parts = Path(pattern).expanduser().absolute().parts
    first = next(at for at, part in enumerate(parts) if glob.has_magic(part))
    return Path(*parts[:first])


def _of_pattern(pattern: str) -> DataFiles:
    """Return the files that a pattern names, all of one format."""
    root, names = pattern_root(pattern), []
    full = Path(pattern).expanduser().absolute()
    try:
        paths = list(islice(root.glob(full.relative_to(root).as_posix()), _MOST_FILES + 1))
    except ValueError as error:
        raise SourceError(
            f"dataset.source: {pattern!r} is no pattern ({error}); correct it"
        ) from None
    for path in paths:
        name = path.relative_to(root).as_posix()
        if path.is_file() and "/." not in f"/{name}":
            require_inside(path, root, "dataset.source", SourceError)
            names.append(name)
        _require_few(names, pattern)
    if not names:
        raise SourceError(
            f"dataset.source: no file is at {pattern!r} (looked in {Path.cwd()}); correct the pattern"
        )
    return DataFiles(root, tuple(sorted(names)), _kind(sorted(names), pattern))


def of_folder(folder: Path, dataset: Dataset) -> DataFiles:
    """Return the files of a folder that are the dataset's split, all of one format.

    With `dataset.data_files` those it names. Else what `datasets` saved there, or every file of rows:
    if their names tell splits, those of the split. Raises SourceError.
    """
    if dataset.data_files is None:
        if (folder / "dataset_dict.json").is_file():
            return _saved_split(folder, dataset)
        if (folder / "state.json").is_file():
            return _saved(folder, folder)
    names = _files_below(folder, str(dataset.source))
    if dataset.data_files is not None:
        names = matching(names, dataset.data_files)
        if not names:
            raise SourceError(
                f"dataset.data_files: no file of {dataset.source} is like {dataset.data_files!r}; "
                f"correct the pattern"
            )
    else:
        names = _of_split([name for name in names if suffix_of(name) or _is_packed(name)], dataset)
    if not names:
        raise SourceError(
            f"dataset.source: {dataset.source} holds no {', '.join(DATA_FORMATS)} file; correct the path"
        )
    return DataFiles(folder, tuple(names), _kind(names, dataset.source))


def matching(names: Iterable[str], pattern: str) -> list[str]:
    """Return the names that a pattern covers; without a folder in it, in any folder. In order."""
    found = []
    for name in names:
        subject = name if "/" in pattern else PurePosixPath(name).name
        # `**/` is any number of folders, none included, as elsewhere.
        if any(fnmatchcase(subject, p) for p in (pattern, pattern.replace("**/", ""))):
            found.append(name)
    return sorted(found)


def _is_packed(name: str) -> bool:
    return name.lower().endswith(PACKED)


def _of_split(names: list[str], dataset: Dataset) -> list[str]:
    """Return those of a split, by the splits that files and folders are named after; all, if none is."""
    names = [name for name in names if PurePosixPath(name).name not in _NO_ROWS]
    splits = {name: split_of(name) for name in names}
    known = {split for split in splits.values() if split}
    if not known:
        return names
    if nameless := [name for name, split in splits.items() if not split]:
        raise SourceError(
            f"dataset.source: of the files of {dataset.source} some are named after a split and others "
            f"not ({nameless[0]}); choose with dataset.data_files"
        )
    wanted = dataset.split.partition("[")[0]
    wanted = _SPLIT.get(wanted.lower(), wanted)
    if wanted not in known:
        raise SourceError(
            f"dataset.split: {dataset.source} has no split {wanted!r}, but {', '.join(sorted(known))}; "
            f"name one of them"
        )
    return [name for name in names if splits[name] == wanted]


def split_of(name: str) -> str | None:
    """Return the split that a file is named after, by its own name before its folders'."""
    for part in reversed(PurePosixPath(name).parts):
        words = _WORD.findall(part.partition(".")[0].lower())
        splits = {_SPLIT[word] for word in words if word in _SPLIT}
        if len(splits) == 1:
            return splits.pop()
    return None


def _files_below(folder: Path, source: str) -> list[str]:
    """Return the files below a folder by their paths there, in order; hidden ones are left out."""
    names: list[str] = []
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if "/." in f"/{name}":
            continue
        if path.is_file() or path.is_symlink():
            require_inside(path, folder, "dataset.source", SourceError)
            if path.is_file():
                names.append(name)
        elif not path.is_dir():
            raise SourceError(
                f"dataset.source: {name} of {source} is no file and no folder; remove it, or choose with "
                f"dataset.data_files"
            )
        _require_few(names, source)
    return sorted(names)


def _require_few(names: list[str], source: str) -> None:
    if len(names) > _MOST_FILES:
        raise SourceError(
            f"dataset.source: {source} has more than {_MOST_FILES:,} files; name the folder of the rows"
        )


def _saved_split(folder: Path, dataset: Dataset) -> DataFiles:
    """Return the files of a split of what `DatasetDict.save_to_disk` wrote."""
    listed = _json(folder / "dataset_dict.json").get("splits")
    splits = [name for name in listed if isinstance(name, str)] if isinstance(listed, list) else []
    wanted = dataset.split.partition("[")[0]
    if wanted not in splits:
        raise SourceError(
            f"dataset.split: {dataset.source} has no split {wanted!r}, but {', '.join(splits)}; name one "
            f"of them"
        )
    if not _is_name(wanted) or not (folder / wanted / "state.json").is_file():
        raise _not_saved(folder, f"there is no {wanted}/state.json")
    return _saved(folder / wanted, folder)


def _saved(folder: Path, root: Path) -> DataFiles:
    """Return the Arrow files of what `Dataset.save_to_disk` wrote, in its order."""
    state = _json(folder / "state.json")
    if state.get("_indices_data_files"):
        raise _not_saved(folder, "its rows are a choice among others; use flatten_indices() first")
    listed: Any = state.get("_data_files")
    files: list[Any] = [
        file.get("filename") if isinstance(file, dict) else None for file in listed or ()
    ]
    if not files or not all(isinstance(name, str) and _is_name(name) for name in files):
        raise _not_saved(folder, "state.json lists no files")
    for name in files:
        if not (folder / name).is_file():
            raise _not_saved(folder, f"{name} is missing")
        require_inside(folder / name, root, "dataset.source", SourceError)
    names = tuple((folder / name).relative_to(root).as_posix() for name in files)
    return DataFiles(root, names, "arrow")


def _json(path: Path) -> dict[str, object]:
    require_inside(path, path.parent, "dataset.source", SourceError)
    try:
        if path.stat().st_size > _LARGEST_STATE:
            raise ValueError("too large")
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise _not_saved(path.parent, f"{path.name} is not what `datasets` writes")
    return value


def _is_name(name: str) -> bool:
    return bool(name) and "/" not in name and "\\" not in name and not name.startswith(".")


def _not_saved(folder: Path, reason: str) -> RetuneError:
    return SourceError(
        f"dataset.source: {folder} is no whole folder of save_to_disk: {reason}; save it again"
    )
