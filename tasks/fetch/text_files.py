"""Text files as streams of rows, read tolerantly: what is wrong with a row is that row's problem alone.

`datasets` would guess types from a file's beginning: a text that looks like a date, a number or
`null` then is no longer what the file has, and one unexpected row stops it.
"""

import codecs
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from tasks.fetch.batches import RowBatch
from tasks.fetch.values import Unreadable

PIECE = 1 << 20  # characters read at a time of what is only counted
_BATCH_ROWS, _BATCH_SIZE = 2000, 32 << 20


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


def encoding_of(path: Path) -> str:
    """Return a file's encoding by its byte order mark; UTF-8 if it has none."""
    with path.open("rb") as file:
        start = file.read(2)
    return "utf-16" if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"


def open_text(path: Path) -> IO[str]:
    """Open a file as text, its line ends as they are; U+FFFD replaces what cannot be decoded."""
    return path.open(encoding=encoding_of(path), errors="replace", newline="")


def bounded_lines(file: IO[Any], limit: int) -> Iterator[tuple[Any, int]]:
    """Return each line of a file and its size but for the line feed; of one that is longer than
    `limit`, the beginning."""
    while line := file.readline(limit + 1):
        size, part = len(line), line
        while part and part[-1:] not in ("\n", b"\n"):
            part = file.readline(PIECE)
            size += len(part)
        yield line, size - bool(part)
