"""Several datasets as one: of each part the rows that are taken, one part after another.

Which rows of a part are taken follows from the seed and each row's own content: they are those of
the smallest hashes. So the choice stays when the part grows, but for new rows that take a place; of
rows that say the same, the earlier ones are taken.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from expectations.data.batches import BATCH_BYTES, record_batches
from retune.recipe import Dataset, Part
from tasks.fetch.columns import row_schema
from tasks.fetch.writing import write_rows

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

_BATCH = 2_000  # rows


def mixed_schema() -> "pa.Schema":
    """Return the columns of a mix: those of rows, `part` (its name) and `part_row` (the row's number in
    the part, from 0)."""
    import pyarrow as pa

    extra = [pa.field("part", pa.string()), pa.field("part_row", pa.int64())]
    return pa.schema([*row_schema(), *extra])


def mixed(dataset: Dataset, files: list[Path], out: Path) -> int:
    """Write the rows that are taken of each part's file into one; returns how many they are.

    Rows are numbered anew over the whole.
    """
    return write_rows(_numbered(dataset, files), out, mixed_schema())


def _numbered(dataset: Dataset, files: list[Path]) -> "Iterator[pa.Table]":
    import pyarrow as pa

    count = 0
    for part, name, file in zip(dataset.mix, dataset.names, files, strict=True):
        for table in _taken(part, dataset.mix_seed, file):
            numbers = pa.array(range(count, count + len(table)), pa.int64())
            count += len(table)
            of_part = pa.repeat(pa.scalar(name, pa.string()), len(table))
            table = table.append_column("part", of_part).append_column("part_row", table["row"])
            yield table.set_column(0, "row", numbers)


def _taken(part: Part, seed: int, file: Path) -> "Iterator[pa.Table]":
    """Return the rows of a part that are taken, in their order there."""
    import pyarrow as pa

    chosen = None if _takes_all(part) else _chosen(part, seed, file)
    at = 0
    for batch in _batches(file):
        table = pa.Table.from_batches([batch])
        if chosen is not None:
            table = table.filter(pa.array(chosen[at : at + len(batch)]))
        at += len(batch)
        if len(table):
            yield table


def _takes_all(part: Part) -> bool:
    return part.rows is None and part.weight == 1


def _chosen(part: Part, seed: int, file: Path) -> "np.ndarray":
    """Return for each row of a part whether it is taken."""
    import numpy as np

    keys = np.concatenate(
        [np.empty(0, np.uint64), *(_keys(batch, seed) for batch in _batches(file))]
    )
    # Of a part that has rows at least one: a mix of nothing could not be judged.
    count = max(1, round(part.weight * len(keys))) if part.rows is None else part.rows
    chosen = np.zeros(len(keys), bool)
    # Stable: of rows that are alike, the earlier ones.
    chosen[np.argsort(keys, kind="stable")[:count]] = True
    return chosen


def _keys(batch: "pa.RecordBatch", seed: int) -> "np.ndarray":
    """Return a number for each row that follows from the seed and what the row says."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    lists = batch.column("messages")
    flat = lists.flatten()
    # Separators that no text has: in UTF-8 these bytes are nothing.
    kind = pa.large_binary()
    role, content = (
        pc.fill_null(pc.struct_field(flat, name), "").cast(kind) for name in ("role", "content")
    )
    turns = pc.binary_join_element_wise(role, content, pa.scalar(b"\xfe", kind))
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    texts = pc.binary_join(pa.ListArray.from_arrays(offsets, turns), pa.scalar(b"\xff", kind))
    prefix = seed.to_bytes(4, "big")
    digests = [hashlib.sha256(prefix + text).digest()[:8] for text in texts.to_pylist()]
    return np.frombuffer(b"".join(digests), ">u8").astype(np.uint64)


def _batches(file: Path) -> "Iterator[pa.RecordBatch]":
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as source:
        yield from record_batches(source, _BATCH, BATCH_BYTES)
