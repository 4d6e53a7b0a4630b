"""A source as a stream: batches of its own rows come in, tables of one shape go out."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from expectations.data.masking import mask
from retune.sources import SourceError
from tasks.fetch.columns import from_columns, from_rows
from tasks.fetch.conversations import EXPECTED, PREFERENCE_PAIR
from tasks.fetch.guesses import guess
from tasks.fetch.shape import SHAPE
from tasks.fetch.unused import Notes

if TYPE_CHECKING:
    import pyarrow as pa

_EXAMPLES = 20  # rows by which it is guessed what a source's columns are


@dataclass(frozen=True)
class RowBatch:
    """Some rows of a source, in order.

    `columns` holds them as columns where a file has sound ones, else it is None; `rows` returns them
    one by one, as JSON values, or as an Unreadable where there is none. `unread` are the names of
    columns that are in neither, and whether every row has a value there.
    """

    columns: "pa.Table | None"
    rows: Callable[[], list[Any]]
    unread: Mapping[str, bool] = field(default_factory=dict)


def to_rows(
    batches: Iterable[RowBatch], default_source: str, notes: Notes | None = None
) -> "Iterator[pa.Table]":
    """Bring every batch into the shape of `retune.records.Rows`, numbered from 0.

    Rows that name no source get `default_source`. What is not used of the source is counted in `notes`.
    Raises SourceError, at the end, when not a single row could be read, a column is missing that the
    recipe names, or the source is for another kind of training.
    """
    import pyarrow as pa

    tally, notes = _Tally(), notes or Notes()
    for batch in batches:
        table = None
        if batch.columns is not None:
            table = from_columns(batch.columns, default_source, notes)
        if table is None:
            rows = batch.rows()
            table = from_rows(rows, default_source, notes, batch.unread)
            tally.note(rows, table)
        for name, complete in batch.unread.items():
            notes.unused.column(name, len(table) if complete else None)
        numbers = pa.array(range(tally.rows, tally.rows + len(table)), pa.int64())
        tally.count(table)
        yield table.add_column(0, "row", numbers)
    if tally.rows:
        notes.labels.check(default_source, tally.rows)
        _check_names(notes, tally)
        tally.check(default_source)


def _check_names(notes: Notes, tally: "_Tally") -> None:
    """Raise SourceError if a column that the recipe names is in no row."""
    for ours, theirs in SHAPE.get().columns.items():
        if ours in ("role", "content", "reasoning") or theirs in notes.names:
            continue
        names = [mask(str(name)) for name in list(tally.columns)[:20]]
        has = f"; there are {names}" if names else ""
        raise SourceError(
            f"dataset.columns: no row has a value in a column `{mask(theirs)}` ({ours}){has}; correct "
            f"the name, or remove it"
        )


@dataclass
class _Tally:
    """What is known of a source so far, to say what is wrong if none of it can be read."""

    rows: int = 0
    readable: int = 0
    preferences: int = 0
    with_format: int = 0
    columns: dict[str, None] = field(default_factory=dict)  # in the order seen
    problems: list[str] = field(default_factory=list)
    examples: list[dict[str, Any]] = field(default_factory=list)

    def note(self, rows: list[Any], table: "pa.Table") -> None:
        """Remember columns and problems, as long as nothing could be read."""
        if self.readable or len(self.problems) >= 3:
            return
        for row in rows:
            if isinstance(row, dict):
                self.columns |= dict.fromkeys(list(row)[:20])
                if len(self.examples) < _EXAMPLES:
                    self.examples.append(row)
        for number, problem in enumerate(table["problem"][:3].to_pylist(), start=self.rows):
            told = problem and mask(problem)
            if not any(before.endswith(f": {told}") for before in self.problems):
                self.problems.append(f"row {number}: {told}")

    def count(self, table: "pa.Table") -> None:
        import pyarrow.compute as pc

        self.rows += len(table)
        self.readable += table["problem"].null_count
        self.with_format += len(table) - table["format"].null_count
        self.preferences += pc.sum(pc.equal(table["problem"], PREFERENCE_PAIR)).as_py() or 0

    def check(self, source: str) -> None:
        """Raise SourceError if there are rows and none of them is readable."""
        if self.readable:
            return
        if self.preferences == self.rows:
            raise SourceError(
                f"dataset.source: {source} is preference data (`chosen` and `rejected`, for DPO or "
                f"ORPO); retune trains on conversations (SFT): store the `chosen` side as `messages`, or "
                f"name an SFT dataset"
            )
        if self.columns and not self.with_format:
            names = [mask(str(name)) for name in list(self.columns)[:20]]
            way = guess(self.examples) or EXPECTED
            raise SourceError(f"dataset.source: no usable columns among {names}; {way}")
        raise SourceError(
            f"dataset.source: none of the {self.rows:,} rows of {source} can be read: "
            f"{'; '.join(self.problems)}; correct them, or name another source"
        )
