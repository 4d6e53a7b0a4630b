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
from tasks.fetch.json_objects import is_begun, require_no_table
from tasks.fetch.text_files import (
    USUAL,
    Dialect,
    TextRow,
    bounded_lines,
    open_text,
    over_budget,
)
from tasks.fetch.values import Unreadable, json_value

_HEAD = 1 << 20  # characters in which the layout of a file shows
_LARGEST_DOCUMENT = 256 << 20  # bytes of a file that is one object, read as a whole
_DECODER = json.JSONDecoder()


def json_rows(path: Path, dialect: Dialect = USUAL) -> Iterator[TextRow]:
    """Return the rows of a JSON file.

    Raises SourceError when a file breaks off, unless the dialect keeps the whole rows, and for an
    object of many entries none of which is a list of rows.
    """
    with open_text(path, dialect) as file:
        head = file.read(_HEAD).lstrip()
    if not head.startswith(("[", "{")) or _more_follows(head):
        return _lines(path, dialect)
    if head.startswith("["):
        return array_rows(path, dialect)
    require_no_table(path, head)
    rows = None
    if path.stat().st_size <= _LARGEST_DOCUMENT:
        rows = _object_rows(path, dialect)
    return _lines(path, dialect) if rows is None else map(TextRow.of, rows)


def _more_follows(head: str) -> bool:
    """Say whether a file begins with a whole JSON value and something else."""
    try:
        _, end = _DECODER.raw_decode(head)
    except (ValueError, RecursionError):
        return False
    return bool(head[end:].strip())


def _lines(path: Path, dialect: Dialect) -> Iterator[TextRow]:
    """Return the lines of a file that are not blank, an Unreadable for each over the budget."""
    budget = BUDGET.get()
    before, rows = b"", 0
    with _open_lines(path, dialect) as file:
        for number, (line, size) in enumerate(bounded_lines(file, budget.bytes), start=1):
            if size > budget.bytes:
                yield over_budget(budget.over_bytes(size, f"line {number}"))
                rows += 1
                continue
            text = (line.encode() if isinstance(line, str) else line).strip()
            text = text.removeprefix(codecs.BOM_UTF8).strip()
            if problem := budget.excess(text, f"line {number}"):
                yield over_budget(problem)
            elif text and line[-1:] not in ("\n", b"\n") and _breaks_off(text, before):
                yield TextRow.of(dialect.truncation(path, rows, f"within line {number}"))
            elif text:
                yield TextRow(len(text), partial(_value, text, number))
            rows += bool(text)
            before = text or before


def _breaks_off(text: bytes, before: bytes) -> bool:
    """Say whether a file's last line, which nothing ends, is the beginning of a JSON value.

    If the line before is none either, the file is something else that is wrong.
    """
    is_json = not before or _is_json(before.decode("utf-8", "replace"))
    return is_json and is_begun(text.decode("utf-8", "replace"))


def _value(text: bytes, number: int) -> Any:
    """Return a line's value, or the Unreadable that represents it; the text is meant to be UTF-8."""
    try:
        return json_value(text.decode("utf-8", "replace"), f"line {number}")
    except Unreadable as problem:
        return problem


def _object_rows(path: Path, dialect: Dialect) -> list[Any] | None:
    """Return the rows of a file that is one JSON object; None if it is not.

    The object is a row itself, or holds a list of rows: the only list, or the one that is called like
    the split. Raises SourceError if it breaks off.
    """
    with open_text(path, dialect) as file:
        text = file.read()
    try:
        value = json.loads(text)
    except RecursionError:
        return None
    except ValueError:
        if (
            "\n" in text.strip()
            and not _is_json(text.strip().partition("\n")[0])
            and is_begun(text)
        ):
            dialect._replace(keeps_whole_rows=False).truncation(path, 0, "within its only object")
        return None
    lists = {name: item for name, item in value.items() if isinstance(item, list)}
    of_rows = [name for name, items in lists.items() if items and isinstance(items[0], dict)]
    if layout_of(known_columns(value)) is None and len(lists) == len(of_rows):
        if len(of_rows) == 1:
            return lists[of_rows[0]]
        if dialect.split in of_rows:
            return lists[dialect.split]
    problem = BUDGET.get().excess(text.encode("utf-8", "replace"))
    return [Unreadable(problem) if problem else value]


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _open_lines(path: Path, dialect: Dialect) -> IO[Any]:
    """Open a file for its lines, which end with a line feed and nothing else."""
    encoding = dialect.encoding_of(path)
    if encoding.startswith("utf-8"):
        return path.open("rb")
    return path.open(encoding=encoding, errors="replace", newline="\n")
