"""A Hub dataset's files at a pinned commit: which they are, and a copy of them on this disk.

`datasets` finds out which files a split has, by the repository's card. A card may name any path and
URL, and `datasets` would follow it: so the card is read first, and what is found is looked at again
before anything of it is opened. Code and formats that can refer to other files are not read.
"""

import codecs
import dataclasses
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import BaseModel

from retune.data_files import is_of_rows, suffix_of
from retune.recipe import Dataset
from retune.sources import DATA_FORMATS, SourceError

if TYPE_CHECKING:
    from datasets import DatasetBuilder

_LARGEST_CARD = 16 << 20  # bytes
_CARDS = ("README.md", ".huggingface.yaml")  # `datasets` reads both, the second over the first
_CONNECTIONS = 8
# What a card may say of how files are read. Other settings name functions, classes, dialects.
_SETTINGS = {
    "json": "field encoding encoding_errors chunksize block_size use_threads on_mixed_types features",
    "csv": "sep delimiter header names column_names usecols skipinitialspace true_values false_values "
    "skiprows nrows na_values keep_default_na na_filter skip_blank_lines thousands decimal "
    "lineterminator quotechar quoting escapechar comment encoding encoding_errors skipfooter "
    "doublequote on_bad_lines float_precision low_memory chunksize engine features",
    "parquet": "batch_size columns filters features",
    "arrow": "features",
}
_SLOW_ENCODINGS = {"punycode", "idna"}  # the time they take is not linear


class Files(BaseModel):
    """The files of a source's split, on this disk, and their format (a value of
    DATA_FORMATS; None where only what is packed in them tells). `settings` is None where they are of
    the format as such, else what is passed to `datasets`; `features` are the types of their columns,
    if the repository gives them."""

    kind: str | None
    paths: tuple[Path, ...]
    settings: dict[str, Any] | None = None
    features: dict[str, Any] | None = None


def download(dataset: Dataset, commit: str | None) -> Files:
    """Return the files of a Hub dataset's split at a commit, downloaded.

    Raises SourceError if the repository names anything but its own files at that commit, and what
    `datasets` and huggingface_hub raise.
    """
    import datasets
    from huggingface_hub import hf_hub_download

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # its errors are raised as well
    _check_card(dataset, commit)
    split = dataset.split.partition("[")[0]
    builder = datasets.load_dataset_builder(
        f"hf://datasets/{dataset.source}",
        name=dataset.subset,
        revision=commit,
        data_files={split: dataset.data_files} if dataset.data_files else None,
    )
    names = _files(builder, dataset, commit)
    _require_one_format(builder, dataset, commit, names)
    kind, settings = _format(builder, dataset)

    def copy(name: str) -> str:
        return hf_hub_download(dataset.source, name, repo_type="dataset", revision=commit)

    with ThreadPoolExecutor(_CONNECTIONS) as pool:
        paths = tuple(map(Path, pool.map(copy, names)))
    features = builder.info.features if settings is not None else None
    return Files(
        kind=kind, paths=paths, settings=settings, features=features and features.to_dict()
    )


def _check_card(dataset: Dataset, commit: str | None) -> None:
    """Raise SourceError if a pattern in the repository's card leads out of the repository."""
    for pattern in _patterns(_card(dataset, commit).get("configs")):
        if not _is_inside(pattern):
            raise _refused(dataset, f"its card names {pattern!r:.100}")


def _card(dataset: Dataset, commit: str | None) -> dict[str, Any]:
    """Return the metadata of a repository's card, as `datasets` puts it together."""
    import yaml
    from huggingface_hub import DatasetCard, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    data: dict[str, Any] = {}
    for name in _CARDS:
        try:
            path = hf_hub_download(dataset.source, name, repo_type="dataset", revision=commit)
        except LocalEntryNotFoundError:  # an EntryNotFoundError, too: the Hub was not reached
            raise
        except EntryNotFoundError:
            continue
        if Path(path).stat().st_size > _LARGEST_CARD:
            raise _refused(dataset, f"its {name} has more than {_LARGEST_CARD >> 20} MiB")
        if name.endswith(".md"):
            metadata = DatasetCard.load(path).data.to_dict()
        else:
            metadata = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        data |= metadata if isinstance(metadata, dict) else {}
    return data


def _patterns(configs: Any) -> Iterator[str]:
    """Return every path and pattern in a card's `configs`; what is no text is shown as text."""
    for config in configs if isinstance(configs, list) else []:
        if not isinstance(config, dict):
            continue
        if config.get("data_dir"):
            yield str(config["data_dir"])
        files = config.get("data_files")
        for item in files if isinstance(files, list) else [files] if files else []:
            paths = item.get("path") if isinstance(item, dict) else item
            yield from map(str, paths if isinstance(paths, list) else [paths])


def _is_inside(path: str) -> bool:
    """Say whether a path or pattern stays below the folder that it is relative to."""
    try:
        scheme = urlsplit(path).scheme
    except ValueError:
        return False
    parts = re.split(r"[/\\]", path)
    return not (scheme or "://" in path or "::" in path or path[:1] in ("/", "\\", "~", "")) and (
        ".." not in parts
    )


def _files(builder: "DatasetBuilder", dataset: Dataset, commit: str | None) -> list[str]:
    """Return the names of a split's files in the repository.

    Raises SourceError for a file anywhere else, ValueError if the split has no files.
    """
    name = dataset.split.partition("[")[0]
    files = {str(split): paths for split, paths in (builder.config.data_files or {}).items()}
    prefix = f"hf://datasets/{dataset.source}@{commit}/"
    for paths in files.values():
        for file in paths:
            if not file.startswith(prefix) or not _is_inside(file.removeprefix(prefix)):
                raise _refused(dataset, f"it leads to {file!r:.100}")
    if name not in files:
        raise ValueError(f"no split {name!r} among {list(files)}")
    return [file.removeprefix(prefix) for file in files[name]]


def _require_one_format(
    builder: "DatasetBuilder", dataset: Dataset, commit: str | None, names: list[str]
) -> None:
    """Raise SourceError if the split has files of rows of several formats.

    `datasets` reads those of one and says nothing of the others, or reads all of them as that one.
    """
    from datasets.data_files import DataFilesDict, get_data_patterns, sanitize_patterns

    place = f"hf://datasets/{dataset.source}@{commit}"
    split = dataset.split.partition("[")[0]
    patterns = {split: dataset.data_files} if dataset.data_files else None
    patterns = patterns or _patterns_of(_card(dataset, commit).get("configs"), builder.config.name)
    found = DataFilesDict.from_patterns(
        sanitize_patterns(patterns) if patterns else get_data_patterns(place), base_path=place
    )
    every = [*names, *(file.removeprefix(f"{place}/") for file in found.get(split, ()))]
    examples = {DATA_FORMATS[suffix_of(name)]: name for name in reversed(every) if is_of_rows(name)}
    if len(examples) > 1:
        first, *others = reversed(examples.values())
        raise SourceError(
            f"dataset.source: split {split!r} of {dataset.source} has files of several formats "
            f"({', '.join([first, *others])}); choose with dataset.data_files, such as "
            f"*{suffix_of(first)}"
        )


def _patterns_of(configs: Any, subset: str) -> Any:
    """Return what a card says of the files of a subset; None if nothing."""
    for config in configs if isinstance(configs, list) else []:
        if isinstance(config, dict) and str(config.get("config_name", "default")) == subset:
            return config.get("data_files")
    return None


def _format(builder: "DatasetBuilder", dataset: Dataset) -> tuple[str, dict[str, Any] | None]:
    """Return the format of a repository's files, and its settings if it has other than the usual."""
    import datasets

    config = builder.config
    kind = type(config).__module__.rpartition(".")[2]  # datasets.packaged_modules.json.json
    if kind not in DATA_FORMATS.values():
        raise SourceError(
            f"dataset.source: {dataset.source} has files of the format {kind}; name a dataset of "
            f"{', '.join(DATA_FORMATS)} files"
        )
    common = {field.name for field in dataclasses.fields(datasets.BuilderConfig)}
    names = {field.name for field in dataclasses.fields(config)} - common
    usual = type(config)()
    settings = {
        name: getattr(config, name)
        for name in names
        if getattr(config, name) != getattr(usual, name)
    }
    for name, value in settings.items():
        if name not in _SETTINGS[kind].split() or not _is_harmless(name, value):
            raise _refused(dataset, f"its card sets {name} to {str(value)!r:.60}")
    if not settings:
        return kind, None
    settings.pop("features", None)  # builder.info has them, too
    return kind, settings


def _is_harmless(name: str, value: Any) -> bool:
    """Say whether reading with this value of an allowed setting takes linear time."""
    if name in ("sep", "delimiter"):  # a longer one is a pattern
        return value is None or value == r"\s+" or len(str(value)) == 1
    if name == "encoding":
        try:
            return codecs.lookup(str(value)).name not in _SLOW_ENCODINGS
        except LookupError:
            return False
    return True


def _refused(dataset: Dataset, reason: str) -> SourceError:
    return SourceError(
        f"dataset.source: {dataset.source} is not read: {reason}, and only the files of the pinned "
        f"commit are read, as what they are; correct its card, or name another dataset"
    )
