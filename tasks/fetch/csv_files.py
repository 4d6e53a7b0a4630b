"""CSV files as rows of texts."""

import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from retune.sources import SourceError
from tasks.fetch.budget import BUDGET
from tasks.fetch.text_files import TextRow, bounded_lines, open_text, over_budget
from tasks.fetch.values import Unreadable


def csv_rows(path: Path) -> Iterator[TextRow]:
    """Return the rows of a CSV file as objects of texts; an empty cell is absent.

    Raises SourceError when there is no header.
    """
    csv.field_size_limit(sys.maxsize)  # 128 KiB by default, little for a conversation
    budget = BUDGET.get()
    with open_text(path) as file:
        lines = _RowLines(file, budget.bytes)
        reader = csv.reader(lines, strict=True)
        try:
            header = next((cells for cells in reader if cells), [])
        except (csv.Error, _RowTooLarge) as error:
            raise SourceError(f"dataset.source: {path} has no CSV header ({error})") from None
        while True:
            line = lines.begin()
            try:
                cells = next(reader)
            except StopIteration:
                return
            except _RowTooLarge:
                yield over_budget(budget.over_bytes(lines.size, f"the row of line {line}"))
                continue
            except csv.Error as error:
                yield TextRow.of(Unreadable(f"line {line} is not CSV ({error})"))
                continue
            if len(cells) > budget.values:
                yield over_budget(budget.over_values(len(cells), f"line {line}"))
            elif cells:
                yield TextRow.of(_row(header, cells, line), lines.size)


class _RowTooLarge(ValueError):
    """A row of a CSV file that is over the budget."""


class _RowLines:
    """The lines of a CSV file, for `csv.reader`; raises _RowTooLarge within a row over `limit`."""

    def __init__(self, file: IO[str], limit: int) -> None:
        self._lines, self._limit = bounded_lines(file, limit), limit
        self._number, self.size = 0, 0

    def begin(self) -> int:
        """Begin a row; returns the number of its first line."""
        self.size = 0
        return self._number + 1

    def __iter__(self) -> "_RowLines":
        return self

    def __next__(self) -> str:
        line, size = next(self._lines)
        self._number += 1
        self.size += size
        if self.size > self._limit:
            raise _RowTooLarge(f"a row of more than {self._limit:,} bytes")
        return line


def _row(header: list[str], cells: list[str], line: int) -> dict[str, str] | Unreadable:
    if len(cells) > len(header):
        return Unreadable(f"line {line} has {len(cells)} cells, but the header {len(header)}")
    return {name: cell for name, cell in zip(header, cells, strict=False) if cell}
