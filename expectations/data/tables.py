"""Tables with a line for each row that are files: written part by part, read by column or by part.

A dataset may have more rows than memory has room for a line of each; of what stands in such a file a
part is in memory, or the few columns that are asked for.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from retune.temporary import temporary_folder

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    Lines = Callable[[pl.DataFrame], None]

LINES = 100_000  # of a part; a row group of the file. The feature table has 90 bytes a line


class Columns:
    """A table in a file, whose columns are read when they are asked for, each time: as a frame to who
    takes its columns one by one."""

    def __init__(self, table: "pl.LazyFrame") -> None:
        self._table = table
        self._count = count(table)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, name: str) -> "pl.Series":
        return column(self._table, name)


@contextmanager
def writing(path: Path) -> "Iterator[Lines]":
    """Give a function that takes the lines of the file `path`, a frame at a time, at least one; the
    file appears whole when the block ends well, also in the place of one that is read meanwhile."""
    with temporary_folder(str(path.parent)) as scratch:
        file = _File(scratch / path.name)
        try:
            yield file.add
            file.close()
        finally:
            file.abandon()
        (scratch / path.name).replace(path)


class _File:
    """A Parquet file that is written in row groups of LINES lines, whatever frames they come in."""

    def __init__(self, path: Path) -> None:
        from pyarrow.parquet import ParquetWriter

        self._path = path
        self._held: list[pl.DataFrame] = []
        self._writer: ParquetWriter | None = None

    def add(self, lines: "pl.DataFrame") -> None:
        self._held.append(lines)
        if sum(map(len, self._held)) >= LINES:
            self._write()

    def close(self) -> None:
        if self._writer is None or any(map(len, self._held)):
            self._write()
        assert self._writer
        self._writer.close()

    def abandon(self) -> None:
        if self._writer is not None and self._writer.is_open:
            self._writer.close()

    def _write(self) -> None:
        import polars as pl
        from pyarrow.parquet import ParquetWriter

        lines = pl.concat(self._held).to_arrow()
        if self._writer is None:
            self._writer = ParquetWriter(self._path, lines.schema, compression="zstd")
        self._writer.write_table(lines.cast(self._writer.schema), row_group_size=LINES)
        self._held = []


def parts(table: "pl.LazyFrame") -> "Iterator[pl.DataFrame]":
    """Yield a table in frames of at most LINES lines, in order."""
    yield from table.collect_batches(chunk_size=LINES, maintain_order=True)


def alongside(
    batches: "Iterable[pl.DataFrame]", lines: "Iterable[pl.DataFrame]"
) -> "Iterator[tuple[pl.DataFrame, pl.DataFrame]]":
    """Yield each batch of rows with the lines of a table of all rows that are its own: both are in the
    same order, `lines` in frames of any length."""
    import polars as pl

    following = iter(lines)
    held: pl.DataFrame | None = None
    for batch in batches:
        while held is None or len(held) < len(batch):
            more = next(following)
            held = more if held is None or held.is_empty() else pl.concat([held, more])
        yield batch, held[: len(batch)]
        held = held[len(batch) :]


def column(table: "pl.LazyFrame", name: str) -> "pl.Series":
    """Return one column of a table."""
    return table.select(name).collect(engine="streaming")[name]


def count(table: "pl.LazyFrame") -> int:
    """Return how many lines a table has."""
    import polars as pl

    return int(table.select(pl.len()).collect(engine="streaming").item())


def sums(table: "pl.LazyFrame", names: Iterable[str]) -> dict[str, int]:
    """Return for each of these columns of booleans how many lines are true."""
    import polars as pl

    line = table.select(pl.col(name).sum() for name in names).collect(engine="streaming")
    return {name: int(number) for name, number in line.row(0, named=True).items()}


def repeats(values: "np.ndarray") -> "tuple[np.ndarray, np.ndarray]":
    """Return the places of the values that stood before, and for each of them the first place of its
    value. Takes some 25 bytes for each value."""
    import numpy as np

    order = np.argsort(values, kind="stable")
    ordered = values[order]
    again = 1 + np.flatnonzero(ordered[1:] == ordered[:-1])
    del ordered
    begins = np.diff(again, prepend=-1) != 1  # of each run of equal ones
    first = again[begins] - 1
    return order[again], order[first[np.cumsum(begins) - 1]] if len(again) else order[:0]


def occurrences(values: "np.ndarray") -> "np.ndarray":
    """Return for each value how often it occurs."""
    import numpy as np

    later, first = repeats(values)
    times = np.ones(len(values), dtype=np.uint32)
    np.add.at(times, first, 1)
    times[later] = times[first]
    return times
