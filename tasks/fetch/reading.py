"""A Hub dataset at a pinned commit, or a local file, as batches of its own rows."""

import dataclasses
import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

from retune.config import Dataset
from retune.sources import DATA_FORMATS, SourceError, local_path
from tasks.fetch import text_files, typed_files
from tasks.fetch.batches import Batch

if TYPE_CHECKING:
    from datasets import DatasetBuilder

# Readers by `datasets`'s names of file formats.
TEXT = {"json": text_files.json_rows, "csv": text_files.csv_rows}
TYPED = {
    "parquet": (typed_files.parquet_pieces, typed_files.parquet_count),
    "arrow": (typed_files.arrow_pieces, typed_files.arrow_count),
}


def read(dataset: Dataset, commit: str | None, cache: Path) -> Iterator[Batch]:
    """Return the rows of the dataset's split, in order, as its source has them.

    `commit` is the Hub commit to read, None for a local file; what `datasets` unpacks or converts
    on the way lies in `cache`. Raises SourceError if the source cannot be read or is empty,
    ConnectionError when the Hub does not answer.
    """
    path = local_path(dataset.source, "dataset.source")
    empty = True
    with _explained(dataset):
        if path:
            found = _from_files(dataset, _format_of(path), [path])
        else:
            found = _from_hub(dataset, commit, cache)
        for batch in found:
            empty = False
            yield batch
    if empty:
        raise _no_rows(dataset)


def _from_files(dataset: Dataset, kind: str, files: list[Path]) -> Iterator[Batch]:
    """Return the split's slice of the rows in files of one format."""
    if kind in TEXT:
        start, stop = _slice(dataset, lambda: sum(1 for file in files for _ in TEXT[kind](file)))
        rows = chain.from_iterable(map(TEXT[kind], files))
        return text_files.batches(islice(rows, start, stop))
    pieces, count = TYPED[kind]
    start, stop = _slice(dataset, lambda: sum(map(count, files)))
    found = chain.from_iterable(map(pieces, files))
    return typed_files.batches(typed_files.cut(found, start, stop))


def _slice(dataset: Dataset, count: Callable[[], int]) -> tuple[int, int | None]:
    """Return where the split's slice begins and ends, as `datasets` reckons; rows are only counted
    if need be. Raises SourceError for a slice that makes no sense."""
    if "[" not in dataset.split:
        return 0, None
    import datasets

    name = dataset.split.partition("[")[0]
    try:
        instruction = datasets.ReadInstruction.from_spec(dataset.split)
        (absolute,) = instruction.to_absolute({name: count()})
    except ValueError as error:
        raise SourceError(f"dataset.split: {dataset.split!r} cannot be read: {error}") from None
    return absolute.from_, max(absolute.from_, absolute.to)


def _from_hub(dataset: Dataset, commit: str | None, cache: Path) -> Iterator[Batch]:
    """Let `datasets` find a repository's files, and convert them if they are of no format above."""
    import datasets

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # its errors are raised as well
    builder = datasets.load_dataset_builder(
        dataset.source, name=dataset.subset, revision=commit, cache_dir=str(cache)
    )
    kind = _format_in(builder)
    if kind:
        return _from_files(dataset, kind, _downloaded(builder, dataset.split, cache))
    builder.download_and_prepare()
    rows = builder.as_dataset(split=dataset.split).with_format("arrow")
    return typed_files.batches(map(typed_files.piece, rows.iter(typed_files.BATCH_ROWS)))


def _format_in(builder: "DatasetBuilder") -> str | None:
    """Return the format of a repository's files, None if it is another or has settings of its own."""
    import datasets

    config = builder.config
    kind = type(config).__module__.rpartition(".")[2]  # datasets.packaged_modules.json.json
    if kind not in (*TEXT, *TYPED) or not config.data_files:
        return None
    common = {field.name for field in dataclasses.fields(datasets.BuilderConfig)}
    own = {field.name for field in dataclasses.fields(config)} - common
    usual = type(config)()
    return kind if all(getattr(config, name) == getattr(usual, name) for name in own) else None


def _downloaded(builder: "DatasetBuilder", split: str, cache: Path) -> list[Path]:
    """Return a split's files, downloaded and unpacked. Raises ValueError if there is none."""
    import datasets

    name = split.partition("[")[0]
    files = {str(split): found for split, found in builder.config.data_files.items()}
    if name not in files:
        raise ValueError(f"no split {name!r} among {list(files)}")
    config = datasets.DownloadConfig(cache_dir=cache / "downloads", token=builder.token)
    manager = datasets.DownloadManager(download_config=config)
    unpacked = manager.download_and_extract(list(files[name]))
    return [Path(file) for file in manager.iter_files(unpacked)]


@contextmanager
def _explained(dataset: Dataset) -> Iterator[None]:
    """Say what is wrong with a source, whatever the libraries that read it raise.

    Raises SourceError, but ConnectionError (worth a retry) when the Hub was not to be reached, and
    the OSError of a full disk, which the work folder explains.
    """
    try:
        yield
    except SourceError:
        raise
    except Exception as error:
        for cause in _causes(error):
            if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
                raise cause from None
            if _is_outage(cause):
                raise ConnectionError(
                    f"dataset.source: the Hub did not answer for {dataset.source} "
                    f"({type(cause).__name__}); check the network, or give a local path"
                ) from error
        if "corresponds to no data" in str(error):
            raise _no_rows(dataset) from None
        cause = error.__cause__ or error
        reason = str(cause).strip().partition("\n")[0] or type(cause).__name__
        raise SourceError(
            f"dataset.source: cannot read {dataset.source}: {reason}; correct it, or name another"
        ) from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error:
        yield error
        error = error.__cause__ or error.__context__


def _is_outage(error: BaseException) -> bool:
    import httpx
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(error, HfHubHTTPError):
        return error.response.status_code >= 500 or error.response.status_code == 429
    return isinstance(error, ConnectionError | TimeoutError | httpx.TransportError)


def _format_of(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in DATA_FORMATS:
        raise SourceError(
            f"dataset.source: cannot read {path.name!r}; use one of {', '.join(DATA_FORMATS)}"
        )
    return DATA_FORMATS[suffix]


def _no_rows(dataset: Dataset) -> SourceError:
    return SourceError(
        f"dataset.source: {dataset.source} has no rows in split {dataset.split!r}; choose another split "
        f"or file"
    )
