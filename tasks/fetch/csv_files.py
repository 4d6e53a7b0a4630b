"""CSV files as rows of texts."""

import csv
import re
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import IO

from retune.sources import SourceError
from tasks.fetch.budget import BUDGET
from tasks.fetch.text_files import USUAL, Dialect, TextRow, bounded_lines, open_text, over_budget
from tasks.fetch.values import Unreadable

_DELIMITERS = (",", ";", "\t", "|")
_HINT = re.compile(r"(?i)sep=([,;|\t])")
_HEADER, _HEADER_LINES = 1 << 16, 100  # characters, and blank lines before it


def csv_rows(path: Path, dialect: Dialect = USUAL) -> Iterator[TextRow]:
    """Return the rows of a CSV file as objects of texts; an empty cell is absent.

    Raises SourceError when there is no header, and when the file ends within a row, unless the dialect
    keeps the whole rows.
    """
    csv.field_size_limit(sys.maxsize)  # 128 KiB by default, little for a conversation
    budget = BUDGET.get()
    with open_text(path, dialect) as file:
        lines = _RowLines(file, budget.bytes)
        delimiter = dialect.delimiter or _delimiter(path, dialect)
        reader = csv.reader(lines, strict=True, delimiter=delimiter)
        try:
            header = next((cells for cells in reader if cells and not _is_hint(cells)), [])
        except (csv.Error, _RowTooLarge) as error:
            raise SourceError(f"dataset.source: {path} has no CSV header ({error})") from None
        rows = 0
        while True:
            line = lines.begin()
            try:
                cells = next(reader)
            except StopIteration:
                return
            except _RowTooLarge:
                yield over_budget(budget.over_bytes(lines.size, f"the row of line {line}"))
            except csv.Error as error:
                if not lines.ended:
                    yield TextRow.of(Unreadable(f"line {line} is not CSV ({error})"))
                else:
                    where = (
                        f"within the row that begins in line {line}, whose quotes are never closed"
                    )
                    yield TextRow.of(dialect.truncation(path, rows, where))
            else:
                if len(cells) > budget.values:
                    yield over_budget(budget.over_values(len(cells), f"line {line}"))
                elif cells:
                    yield TextRow.of(_row(header, cells, line), lines.size)
            rows += 1


def _delimiter(path: Path, dialect: Dialect) -> str:
    """Return what the header is cut by: what makes the most cells of it, before all a comma.

    Excel writes semicolons where a comma stands in numbers, and says so in a first line if asked to.
    """
    with open_text(path, dialect) as file:
        lines = islice(iter(lambda: file.readline(_HEADER), ""), _HEADER_LINES)
        header = next((line for line in lines if line.strip()), "")
    if hint := _HINT.fullmatch(header.strip()):
        return hint[1]
    return max(
        _DELIMITERS, key=lambda delimiter: len(next(csv.reader([header], delimiter=delimiter), []))
    )


def _is_hint(cells: list[str]) -> bool:
    """Say whether a row is Excel's `sep=;`, which is cut by what it names."""
    return cells[0].lower() == "sep=" and not any(cells[1:])


class _RowTooLarge(ValueError):
    """A row of a CSV file that is over the budget."""


class _RowLines:
    """The lines of a CSV file, for `csv.reader`; raises _RowTooLarge within a row over `limit`."""

    def __init__(self, file: IO[str], limit: int) -> None:
        self._lines, self._limit = bounded_lines(file, limit), limit
        self._number, self.size, self.ended = 0, 0, False

    def begin(self) -> int:
        """Begin a row; returns the number of its first line."""
        self.size = 0
        return self._number + 1

    def __iter__(self) -> "_RowLines":
        return self

    def __next__(self) -> str:
        try:
            line, size = next(self._lines)
        except StopIteration:
            self.ended = True
            raise
        self._number += 1
        self.size += size
        if self.size > self._limit:
            raise _RowTooLarge(f"a row of more than {self._limit:,} bytes")
        return line


def _row(header: list[str], cells: list[str], line: int) -> dict[str, str] | Unreadable:
    if len(cells) > len(header):
        return Unreadable(f"line {line} has {len(cells)} cells, but the header {len(header)}")
    return {name: cell for name, cell in zip(header, cells, strict=False) if cell}
