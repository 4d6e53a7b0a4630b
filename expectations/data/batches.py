"""The rows of a Parquet file in batches that are bounded in bytes: a row may be of any length."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa
    import pyarrow.parquet as pq

# Of what is judged together, at most, but never less than a row; they bound memory, not results.
# Judging takes some ten times a batch's size, and two batches exist at a time.
BATCH_ROWS, BATCH_BYTES = 10_000, 16 << 20


def batches(
    rows: Path, size: int = BATCH_ROWS, size_bytes: int = BATCH_BYTES
) -> "Iterator[pl.DataFrame]":
    """Yield a Parquet file of rows (`retune.records.Rows`) in frames of at most `size` rows and
    `size_bytes` bytes; a row that is larger is a frame of its own."""
    import polars as pl
    import pyarrow.parquet as pq

    # Else a row group is read as a whole.
    with pq.ParquetFile(rows, pre_buffer=False, buffer_size=1 << 20) as file:
        for batch in record_batches(file, size, size_bytes):
            for part in _within(batch, size_bytes):
                frame = pl.from_arrow(part)
                assert isinstance(frame, pl.DataFrame)  # of one column it could be a series
                yield frame


def spread(table: "pl.DataFrame", most: int) -> "pl.DataFrame":
    """Return at most so many lines of a table, spread evenly over it."""
    return table.gather_every(max(1, -(-len(table) // most)))


def detached(texts: "pl.Expr") -> "pl.Expr":
    """Return texts of a batch that are kept, copied: else they are views of their whole column, which
    then stays in memory."""
    import polars as pl

    return pl.concat_str(texts, pl.lit(""))


def copied(rows: "pl.DataFrame") -> "pl.DataFrame":
    """Return some rows of a batch that are kept, copied: else their texts, as above, keep all of it."""
    import polars as pl

    frame = pl.from_arrow(rows.to_arrow())
    assert isinstance(frame, pl.DataFrame)
    return frame


def record_batches(
    file: "pq.ParquetFile", size: int, size_bytes: int, columns: list[str] | None = None
) -> "Iterator[pa.RecordBatch]":
    """Yield the rows of a Parquet file, of some columns alone if they are named, one row group after
    another, at most `size` at a time and about `size_bytes` bytes, as the file's own figures have it."""
    for group in range(file.num_row_groups):
        count = min(size, _rows_within(file, group, size_bytes))
        yield from file.iter_batches(count, row_groups=[group], columns=columns)


def _rows_within(file: "pq.ParquetFile", group: int, size_bytes: int) -> int:
    """Return how many rows of a row group, all as large as the mean one, are within some bytes: at
    least one. Texts that repeat count once in a file: reading them takes more."""
    group_data = file.metadata.row_group(group)
    return max(1, size_bytes * group_data.num_rows // max(group_data.total_byte_size, 1))


def _within(batch: "pa.RecordBatch", size_bytes: int) -> "Iterator[pa.RecordBatch]":
    """Cut a batch until no part is over the bytes, or is a single row."""
    if len(batch) <= 1 or batch.nbytes <= size_bytes:
        yield batch
    else:
        half = len(batch) // 2
        yield from _within(batch.slice(0, half), size_bytes)
        yield from _within(batch.slice(half), size_bytes)
