"""A source as a stream: batches of its own rows come in, tables of one shape go out."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from expectations.data.masking import mask
from retune.sources import SourceError
from tasks.fetch.columns import from_columns, from_rows
from tasks.fetch.conversations import EXPECTED, PREFERENCE_PAIR

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class RowBatch:
    """Some rows of a source, in order.

    `columns` holds them as columns where a file has sound ones, else it is None; `rows` returns them
    one by one, as JSON values, or as an Unreadable where there is none.
    """

    columns: "pa.Table | None"
    rows: Callable[[], list[Any]]


def to_rows(batches: Iterable[RowBatch], default_source: str) -> "Iterator[pa.Table]":
    """Bring every batch into the shape of `retune.records.Rows`, numbered from 0.

    Rows that name no source get `default_source`. Raises SourceError, at the end, when not a single
    row could be read.
    """
    import pyarrow as pa

    tally = _Tally()
    for batch in batches:
        table = None if batch.columns is None else from_columns(batch.columns, default_source)
        if table is None:
            rows = batch.rows()
            table = from_rows(rows, default_source)
            tally.note(rows, table)
        numbers = pa.array(range(tally.rows, tally.rows + len(table)), pa.int64())
        tally.count(table)
        yield table.add_column(0, "row", numbers)
    tally.check(default_source)


@dataclass
class _Tally:
    """What is known of a source so far, to say what is wrong if none of it can be read."""

    rows: int = 0
    readable: int = 0
    preferences: int = 0
    with_format: int = 0
    columns: dict[str, None] = field(default_factory=dict)  # in the order seen
    problems: list[str] = field(default_factory=list)

    def note(self, rows: list[Any], table: "pa.Table") -> None:
        """Remember columns and problems, as long as nothing could be read."""
        if self.readable or len(self.problems) >= 3:
            return
        for row in rows:
            if isinstance(row, dict):
                self.columns |= dict.fromkeys(list(row)[:20])
        for number, problem in enumerate(table["problem"][:3].to_pylist(), start=self.rows):
            self.problems.append(f"row {number}: {problem and mask(problem)}")

    def count(self, table: "pa.Table") -> None:
        import pyarrow.compute as pc

        self.rows += len(table)
        self.readable += table["problem"].null_count
        self.with_format += len(table) - table["format"].null_count
        self.preferences += pc.sum(pc.equal(table["problem"], PREFERENCE_PAIR)).as_py() or 0

    def check(self, source: str) -> None:
        """Raise SourceError if there are rows and none of them is readable."""
        if self.readable or not self.rows:
            return
        if self.preferences == self.rows:
            raise SourceError(
                f"dataset.source: {source} is preference data (`chosen` and `rejected`, for DPO or "
                f"ORPO); retune trains on conversations (SFT): store the `chosen` side as `messages`, or "
                f"name an SFT dataset"
            )
        if self.columns and not self.with_format:
            names = [mask(str(name)) for name in list(self.columns)[:20]]
            raise SourceError(f"dataset.source: no usable columns among {names}; {EXPECTED}")
        raise SourceError(
            f"dataset.source: none of the {self.rows:,} rows of {source} can be read: "
            f"{'; '.join(self.problems)}; correct them, or name another source"
        )
