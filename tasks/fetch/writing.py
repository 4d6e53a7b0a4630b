"""Tables of rows as one Parquet file."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.fetch.columns import row_schema

if TYPE_CHECKING:
    import pyarrow as pa

# Of a Parquet row group, but for one table more; they bound memory, here and where rows are read.
GROUP_ROWS, GROUP_BYTES = 10_000, 32 << 20


def write_rows(tables: "Iterable[pa.Table]", path: Path, schema: "pa.Schema | None" = None) -> int:
    """Write tables of `row_schema()`, or of another schema, to one Parquet file; returns how many rows
    there are."""
    import pyarrow.parquet as pq

    rows = 0
    with pq.ParquetWriter(path, schema or row_schema()) as writer:
        for group in _groups(tables):
            writer.write_table(group)
            rows += len(group)
    return rows


def _groups(tables: "Iterable[pa.Table]") -> "Iterator[pa.Table]":
    """Join and cut tables to the size of row groups."""
    import pyarrow as pa

    group: list[pa.Table] = []
    for table in tables:
        group.append(table)
        if sum(map(len, group)) >= GROUP_ROWS or sum(part.nbytes for part in group) >= GROUP_BYTES:
            joined = pa.concat_tables(group)
            yield joined.slice(0, GROUP_ROWS)
            group = [joined.slice(GROUP_ROWS)] if len(joined) > GROUP_ROWS else []
    if group:
        yield pa.concat_tables(group)
