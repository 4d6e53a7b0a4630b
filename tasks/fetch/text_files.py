"""Text files as streams of rows, read tolerantly: what is wrong with a row is that row's problem alone.

`datasets` would guess types from a file's beginning: a text that looks like a date, a number or
`null` then is no longer what the file has, and one unexpected row stops it.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from retune.recipe import Dataset
from retune.sources import SourceError
from tasks.fetch import encodings
from tasks.fetch.batches import RowBatch
from tasks.fetch.values import Unreadable

PIECE = 1 << 20  # characters read at a time of what is only counted
_BATCH_ROWS, _BATCH_SIZE = 2000, 32 << 20


class Dialect(NamedTuple):
    """How text files are read; see the settings of the same names in `dataset`."""

    encoding: str | None = None
    delimiter: str | None = None
    keeps_whole_rows: bool = False
    split: str = "train"

    @classmethod
    def of(cls, dataset: Dataset) -> "Dialect":
        keeps = dataset.truncated == "keep_whole_rows"
        return cls(dataset.encoding, dataset.delimiter, keeps, dataset.split.partition("[")[0])

    def encoding_of(self, path: Path) -> str:
        """Return a file's encoding: as the recipe names it, or by the byte order mark, or UTF-8."""
        return encodings.by_mark(path) or self.encoding or "utf-8-sig"

    def truncation(self, path: Path, rows: int, where: str) -> Unreadable:
        """Return what represents the row within which a file breaks off, behind `rows` whole ones.

        Raises SourceError if the recipe does not want the whole ones alone.
        """
        if self.keeps_whole_rows:
            return Unreadable(f"the file breaks off within it, {where}")
        raise SourceError(
            f"dataset.source: {path.name} breaks off {where}; {rows:,} whole rows came before: take the "
            f"file again from where it came, or set dataset.truncated=keep_whole_rows"
        )


USUAL = Dialect()


class TextRow(NamedTuple):
    """A row of a text file: its size there, and what returns its value when it is asked for.

    Rows outside of the split's slice are not.
    """

    size: int
    parse: Callable[[], Any]

    @classmethod
    def of(cls, value: Any, size: int = 0) -> "TextRow":
        """Return a row whose value is known, such as an Unreadable."""
        return cls(size, lambda: value)


def batches(rows: Iterable[TextRow]) -> Iterator[RowBatch]:
    """Return rows as batches of bounded size."""
    batch: list[TextRow] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += row.size
        if len(batch) >= _BATCH_ROWS or size >= _BATCH_SIZE:
            yield _parsed(batch)
            batch, size = [], 0
    if batch:
        yield _parsed(batch)


def _parsed(rows: list[TextRow]) -> RowBatch:
    return RowBatch(None, lambda: [row.parse() for row in rows])


def over_budget(problem: str) -> TextRow:
    """Return what represents a row that costs too much."""
    return TextRow.of(Unreadable(problem))


def open_text(path: Path, dialect: Dialect = USUAL) -> IO[str]:
    """Open a file as text, its line ends as they are; U+FFFD replaces what cannot be decoded."""
    return path.open(encoding=dialect.encoding_of(path), errors="replace", newline="")


def bounded_lines(file: IO[Any], limit: int) -> Iterator[tuple[Any, int]]:
    """Return each line of a file and its size but for the line feed; of one that is longer than
    `limit`, the beginning."""
    while line := file.readline(limit + 1):
        size, part = len(line), line
        while part and part[-1:] not in ("\n", b"\n"):
            part = file.readline(PIECE)
            size += len(part)
        yield line, size - bool(part)
