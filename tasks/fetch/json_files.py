"""JSON files as rows: one value per line, an array of rows, or an object that holds a list of them."""

import codecs
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

from tasks.fetch.budget import BUDGET
from tasks.fetch.conversations import known_columns, layout_of
from tasks.fetch.json_arrays import array_rows
from tasks.fetch.text_files import TextRow, bounded_lines, encoding_of, open_text, over_budget
from tasks.fetch.values import Unreadable, json_value

_HEAD = 1 << 20  # characters in which the layout of a file shows
_LARGEST_DOCUMENT = 256 << 20  # bytes of a file that is one object, read as a whole
_DECODER = json.JSONDecoder()


def json_rows(path: Path) -> Iterator[TextRow]:
    """Return the rows of a JSON file.

    Raises SourceError when an array breaks off: where its next row begins cannot be known.
    """
    with open_text(path) as file:
        head = file.read(_HEAD).lstrip()
    if not head.startswith(("[", "{")) or _more_follows(head):
        return _lines(path)
    if head.startswith("["):
        return array_rows(path)
    rows = _object_rows(path) if path.stat().st_size <= _LARGEST_DOCUMENT else None
    return _lines(path) if rows is None else map(TextRow.of, rows)


def _more_follows(head: str) -> bool:
    """Say whether a file begins with a whole JSON value and something else."""
    try:
        _, end = _DECODER.raw_decode(head)
    except (ValueError, RecursionError):
        return False
    return bool(head[end:].strip())


def _lines(path: Path) -> Iterator[TextRow]:
    """Return the lines of a file that are not blank, an Unreadable for each over the budget."""
    budget = BUDGET.get()
    with _open_lines(path) as file:
        for number, (line, size) in enumerate(bounded_lines(file, budget.bytes), start=1):
            if size > budget.bytes:
                yield over_budget(budget.over_bytes(size, f"line {number}"))
                continue
            text = (line.encode() if isinstance(line, str) else line).strip()
            text = text.removeprefix(codecs.BOM_UTF8).strip()
            if problem := budget.excess(text, f"line {number}"):
                yield over_budget(problem)
            elif text:
                yield TextRow(len(text), partial(_value, text, number))


def _value(text: bytes, number: int) -> Any:
    """Return a line's value, or the Unreadable that represents it; the text is meant to be UTF-8."""
    try:
        return json_value(text.decode("utf-8", "replace"), f"line {number}")
    except Unreadable as problem:
        return problem


def _object_rows(path: Path) -> list[Any] | None:
    """Return the rows of a file that is one JSON object; None if it is not.

    The object is a row itself, or holds a list of rows and no other list.
    """
    with open_text(path) as file:
        try:
            value = json.load(file)
        except (ValueError, RecursionError):
            return None
    lists = [item for item in value.values() if isinstance(item, list)]
    of_rows = [items for items in lists if items and isinstance(items[0], dict)]
    if layout_of(known_columns(value)) is None and len(lists) == len(of_rows) == 1:
        return of_rows[0]
    with path.open("rb") as file:
        problem = BUDGET.get().excess(file.read())
    return [Unreadable(problem) if problem else value]


def _open_lines(path: Path) -> IO[Any]:
    """Open a file for its lines, which end with a line feed and nothing else."""
    if encoding_of(path) == "utf-16":
        return path.open(encoding="utf-16", errors="replace", newline="\n")
    return path.open("rb")
