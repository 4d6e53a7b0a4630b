"""Parquet and Arrow files, whose columns have types, and tables that `datasets` made of others."""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from expectations.data.batches import record_batches
from tasks.fetch.batches import RowBatch
from tasks.fetch.budget import BUDGET
from tasks.fetch.shape import MEDIA_COLUMNS, SHAPE
from tasks.fetch.values import Unreadable

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

BATCH_ROWS, BATCH_BYTES = (
    2000,
    32 << 20,
)  # of a piece; the bytes as the file's own figures have them
_NAMES_SHOWN = 50  # of unknown columns, for messages; a file may have millions


class Piece(NamedTuple):
    """Some rows of a table: the columns that something is made of, and the names of the others, with
    whether every row has a value there."""

    known: "pa.Table"
    others: dict[str, bool]


def parquet_pieces(path: Path) -> Iterator[Piece]:
    """Return the rows of a Parquet file. Raises what Arrow does over a file that it cannot read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    # Else a row group is read as a whole, and a file may be a single one.
    with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
        names = file.schema_arrow.names
        known = [name for name in names if SHAPE.get().reads(name)]
        leaves, others = _leaves(file, known), _others(names, _empty(file))
        for batch in record_batches(file, BATCH_ROWS, BATCH_BYTES, leaves):
            yield Piece(pa.Table.from_batches([batch]), others)


def _leaves(file: "pq.ParquetFile", names: list[str]) -> list[str]:
    """Return what is read of columns: of pictures and sounds all but their bytes, since only whether
    there are any is of interest."""
    media = [name for name in names if name.lower() in MEDIA_COLUMNS]
    if not media:
        return names
    schema = file.schema
    paths = [schema.column(number).path for number in range(len(schema))]
    leaves = [name for name in names if name not in media]
    for name in media:
        own = [path for path in paths if path == name or path.startswith(f"{name}.")]
        light = [path for path in own if not path.endswith(".bytes")]
        leaves += light or [name]
    return leaves


def parquet_count(path: Path) -> int:
    """Return how many rows a Parquet file has. Raises as `parquet_pieces` does."""
    import pyarrow.parquet as pq

    return pq.read_metadata(path).num_rows


def arrow_pieces(path: Path) -> Iterator[Piece]:
    """Return the rows of an Arrow file of either layout. Raises what Arrow does."""
    import pyarrow as pa

    with pa.memory_map(str(path)) as file:
        try:
            batches: Iterable[pa.RecordBatch] = pa.ipc.open_stream(file)
        except pa.ArrowInvalid:
            reader = pa.ipc.open_file(file)
            batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
        for batch in batches:
            for start in range(0, len(batch), BATCH_ROWS):
                yield piece(pa.Table.from_batches([batch.slice(start, BATCH_ROWS)]))


def arrow_count(path: Path) -> int:
    """Return how many rows an Arrow file has. Raises as `arrow_pieces` does."""
    return sum(len(part.known) for part in arrow_pieces(path))


def piece(table: "pa.Table") -> Piece:
    known = [name for name in table.column_names if SHAPE.get().reads(name)]
    nulls = {
        name: column.null_count
        for name, column in zip(table.column_names, table.columns, strict=True)
    }
    empty = {name for name, count in nulls.items() if count == len(table)}
    complete = {name for name, count in nulls.items() if not count}
    return Piece(table.select(known), _others(table.column_names, empty, complete))


def _others(
    names: list[str], empty: Collection[str], complete: Collection[str] = ()
) -> dict[str, bool]:
    """Return the columns that are not read and not `empty`, and whether they are known to have a value in
    every row."""
    others = (n for n in names if not SHAPE.get().reads(n) and n not in empty)
    return {name: name in complete for name in islice(others, _NAMES_SHOWN)}


def _empty(file: "pq.ParquetFile") -> set[str]:
    """Return the columns of a file that have no values by their type. How many values the others have
    is not known: the file's statistics would tell, but Arrow ends the process over damaged ones."""
    import pyarrow as pa

    return {field.name for field in file.schema_arrow if pa.types.is_null(field.type)}


def cut(pieces: Iterable[Piece], start: int, stop: int | None) -> Iterator[Piece]:
    """Return the rows from `start` to before `stop` (None: the end)."""
    at = 0
    for known, others in pieces:
        first, last = max(start - at, 0), len(known) if stop is None else stop - at
        at += len(known)
        if first < min(last, len(known)):
            yield Piece(known.slice(first, last - first), others)
        if stop is not None and at >= stop:
            return


def batches(pieces: Iterable[Piece]) -> Iterator[RowBatch]:
    """Return the pieces as batches, with an Unreadable instead of each row over the budget.

    Raises ArrowInvalid when a piece is damaged, which its file's format need not show; reading on
    would crash the process.
    """
    import pyarrow as pa

    for known, others in pieces:
        try:
            known.validate(full=True)
        except pa.ArrowInvalid:
            raw = _with_bytes(known)  # all that may be wrong is text in another encoding
            raw.validate(full=True)
            for part in _within_budget(raw):
                yield RowBatch(None, _reader(part, others), others)
        else:
            for part in _within_budget(known):
                columns = None if isinstance(part, Unreadable) else part
                yield RowBatch(columns, _reader(part, others), others)


def _within_budget(known: "pa.Table") -> "Iterator[pa.Table | Unreadable]":
    """Cut a table until no row of a part can be over the budget; such a row is a part of its own."""
    problem = BUDGET.get().excess_of(known)
    if problem is None:
        yield known
    elif len(known) == 1:
        yield Unreadable(problem)
    else:
        half = len(known) // 2
        yield from _within_budget(known.slice(0, half))
        yield from _within_budget(known.slice(half))


def _reader(part: "pa.Table | Unreadable", others: Mapping[str, bool]) -> Callable[[], list[Any]]:
    return (lambda: [part]) if isinstance(part, Unreadable) else partial(_rows, part, others)


def _rows(known: "pa.Table", others: Mapping[str, bool]) -> list[Any]:
    """Return the rows of a table one by one; of columns that no format knows, only the names."""
    import pyarrow as pa

    kind = pa.struct(list(known.schema))
    rest = dict.fromkeys(others, "")
    try:
        rows = known.to_pylist() if known.num_columns else [{}] * len(known)
        return [{**_plain(row, kind), **rest} for row in rows]
    except (ValueError, OverflowError, pa.ArrowException) as error:  # e.g. a date in the year 10000
        return [Unreadable(f"the row has a value that cannot be read: {error}")] * len(known)


def _plain(value: Any, kind: "pa.DataType") -> Any:
    """Return a value as JSON would have it.

    In a struct null means absent: rows that lack a key get it from the rows that have it. Columns
    of mixed types are JSON texts, by `datasets`.
    """
    import pyarrow as pa

    if value is None:
        return None
    if isinstance(kind, pa.JsonType):
        return json.loads(value)
    if pa.types.is_struct(kind):
        return {
            field.name: _plain(value[field.name], field.type)
            for field in kind
            if value[field.name] is not None
        }
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return [_plain(item, kind.value_type) for item in value]
    return value


def _with_bytes(table: "pa.Table") -> "pa.Table":
    """Return a table with bytes instead of text; nothing is read of it, nor copied."""
    import pyarrow as pa

    columns = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        kind = _bytes_for_texts(column.type)
        if kind != column.type:
            column = pa.chunked_array([chunk.view(kind) for chunk in column.chunks], kind)
        columns[name] = column
    return pa.table(columns)


def _bytes_for_texts(kind: "pa.DataType") -> "pa.DataType":
    import pyarrow as pa

    if pa.types.is_string(kind):
        return pa.binary()
    if pa.types.is_large_string(kind):
        return pa.large_binary()
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_bytes_for_texts(kind.value_type)))
    if pa.types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(_bytes_for_texts(kind.value_type)))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_bytes_for_texts(field.type)) for field in kind])
    return kind
