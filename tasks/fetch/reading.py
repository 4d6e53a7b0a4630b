"""A Hub dataset at a pinned commit, or a local file, as batches of its own rows."""

import errno
import glob
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path

from retune.confined import causes, out_of_memory, reading
from retune.data_files import selected
from retune.errors import HubUnreachable
from retune.recipe import Dataset
from retune.sources import SourceError
from tasks.fetch import csv_files, encodings, hub, json_files, text_files, typed_files
from tasks.fetch.batches import RowBatch
from tasks.fetch.budget import BUDGET, Budget
from tasks.fetch.hub import Files
from tasks.fetch.packed_kinds import packed_kind
from tasks.fetch.shape import SHAPE, Shape
from tasks.fetch.text_files import Dialect, TextRow
from tasks.fetch.unpacking import Unpacked, unpacked

# Readers by `datasets`'s names of file formats.
TEXT: dict[str, Callable[[Path, Dialect], Iterator[TextRow]]] = {
    "json": json_files.json_rows,
    "csv": csv_files.csv_rows,
}
TYPED = {
    "parquet": (typed_files.parquet_pieces, typed_files.parquet_count),
    "arrow": (typed_files.arrow_pieces, typed_files.arrow_count),
}


def read(dataset: Dataset, commit: str | None, cache: Path) -> Iterator[RowBatch]:
    """Return the rows of the dataset's split, in order, as its source has them.

    `commit` is the Hub commit to read, None for a local file; what is unpacked or converted on the
    way is in `cache`. This process reads it itself, at whatever cost (see `tasks.fetch.guarded`).
    Raises SourceError if the source cannot be read or is empty, HubUnreachable when the Hub does
    not answer.
    """
    return read_files(dataset, local_files(dataset) or download(dataset, commit), cache)


def local_files(dataset: Dataset) -> Files | None:
    """Return the local files that are the dataset; None if it is on the Hub. Raises SourceError."""
    selection = selected(dataset)
    return Files(kind=selection.kind, paths=selection.paths) if selection else None


def download(dataset: Dataset, commit: str | None) -> Files:
    """Return the files of a Hub dataset's split, downloaded. Raises as `read` does."""
    with explained(dataset):
        return hub.download(dataset, commit)


def read_files(dataset: Dataset, files: Files, cache: Path) -> Iterator[RowBatch]:
    """Return the rows in a dataset's files, without the network. Raises as `read` does."""
    BUDGET.set(Budget.of(dataset))
    SHAPE.set(Shape.of(dataset))
    empty = True
    with explained(dataset):
        unfolded = unpacked(
            files.paths,
            cache / "unpacked",
            dataset.max_unpacked_bytes,
            dataset.source,
            dataset.truncated == "keep_whole_rows",
        )
        if files.settings is None:
            batches = _from_files(dataset, files.kind, unfolded)
        else:
            batches = _converted(dataset, files, [file.path for file in unfolded], cache)
        for batch in batches:
            empty = False
            yield batch
    if empty:
        raise _no_rows(dataset)


def _from_files(dataset: Dataset, kind: str | None, files: list[Unpacked]) -> Iterator[RowBatch]:
    """Return the split's slice of the rows in files of one format; archives may tell which."""
    if kind is None:
        kind, files = packed_kind(dataset, files)
    paths = [file.path for file in files]
    if kind in TEXT:
        dialect, rows_of = Dialect.of(dataset), TEXT[kind]
        start, stop = _slice(
            dataset, lambda: sum(1 for path in paths for _ in rows_of(path, dialect))
        )
        rows = chain.from_iterable(rows_of(path, dialect) for path in _announced(files, dialect))
        return text_files.batches(islice(rows, start, stop))
    pieces, count = TYPED[kind]
    start, stop = _slice(dataset, lambda: sum(map(count, paths)))
    parts = chain.from_iterable(map(pieces, _announced(files)))
    return typed_files.batches(typed_files.cut(parts, start, stop))


def _announced(files: list[Unpacked], dialect: Dialect | None = None) -> Iterator[Path]:
    """Return the files, and say of each that it is being read; of texts, the encoding is proven first."""
    for file in files:
        reading(file.path)
        if dialect:
            encodings.require(
                file.path, file.name, dialect.encoding_of(file.path), dialect.encoding is not None
            )
        yield file.path


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


def _converted(
    dataset: Dataset, files: Files, paths: list[Path], cache: Path
) -> Iterator[RowBatch]:
    """Let `datasets` convert files whose repository sets how they are read."""
    import datasets

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # its errors are raised as well
    types = datasets.Features.from_dict(files.features) if files.features else None
    name = dataset.split.partition("[")[0]
    assert files.kind, "`datasets` has told it"
    builder = datasets.load_dataset_builder(
        files.kind,
        data_files={name: [glob.escape(str(path)) for path in paths]},
        cache_dir=str(cache),
        features=types,
        **(files.settings or {}),
    )
    builder.download_and_prepare()
    rows = builder.as_dataset(split=dataset.split).with_format("arrow")
    return typed_files.batches(map(typed_files.piece, rows.iter(typed_files.BATCH_ROWS)))


@contextmanager
def explained(dataset: Dataset) -> Iterator[None]:
    """Say what is wrong with a source, whatever the libraries that read it raise.

    Raises SourceError, but HubUnreachable (worth a retry) when the Hub was not to be reached, and
    the OSError of a full disk, which the work folder explains, and whatever signals that memory ran out.
    """
    try:
        yield
    except SourceError:
        raise
    except Exception as error:
        if out_of_memory(error):
            raise
        for cause in causes(error):
            if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
                raise cause from None
            if _is_outage(cause):
                raise HubUnreachable(
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


def _is_outage(error: BaseException) -> bool:
    import httpx
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(error, HfHubHTTPError):
        return error.response.status_code >= 500 or error.response.status_code == 429
    return isinstance(error, ConnectionError | TimeoutError | httpx.TransportError)


def _no_rows(dataset: Dataset) -> SourceError:
    return SourceError(
        f"dataset.source: {dataset.source} has no rows in split {dataset.split!r}; choose another split "
        f"or file"
    )
