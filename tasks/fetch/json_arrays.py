"""A JSON array as rows, with no more than a piece of the file in memory.

Not read with ijson, which such files break: a number of 5,000 digits crashes the process, 20,000
brackets take 1 GB and the memory grows with their square, as the time does with a string's length;
NaN, which Python writes, is an error, and a lone surrogate silently becomes a question mark. That is
its parser in C; the one in Python has half of these faults and takes ten times as long as this.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from retune.sources import SourceError
from tasks.fetch.budget import BUDGET
from tasks.fetch.text_files import USUAL, Dialect, TextRow, open_text, over_budget
from tasks.fetch.values import shown

_PIECE = 1 << 20  # characters read at a time
_IN_TEXT, _OUTSIDE = re.compile(r'["\\]'), re.compile(r'["\[\]{},]')
_SPACE, _SEPARATOR = re.compile(r"\s*"), re.compile(r"\s*([,\]])")
_DECODER = json.JSONDecoder()


def array_rows(path: Path, dialect: Dialect = USUAL) -> Iterator[TextRow]:
    """Return the elements of a JSON array, an Unreadable for each over the budget.

    Raises SourceError where it breaks off (unless the dialect keeps the whole rows), is no JSON, or
    something follows its end.
    """
    budget = BUDGET.get()
    with open_text(path, dialect) as file:
        text, number = file.read(_PIECE), 0
        at = _content_at(text, text.index("[") + 1)
        ended = text[at : at + 1] == "]"
        at += ended
        while not ended:
            try:
                value, end, ended = _element(text, at)
            except (ValueError, RecursionError) as error:
                # It may only continue behind what was read, or be too deep.
                text, end, problem = _extent(file, text[_content_at(text, at) :])
                separator = _SEPARATOR.match(text, end) if end else None
                if not end:
                    yield TextRow.of(dialect.truncation(path, number, f"in row {number}"))
                    return
                if not separator and text[end:].strip():
                    raise SourceError(_why_no_array(path, number, text, error)) from None
                try:
                    value = None if problem else json.loads(text[:end])
                except (ValueError, RecursionError) as error:
                    raise SourceError(_why_no_array(path, number, text, error)) from None
                if not separator:
                    dialect.truncation(path, number + 1, f"behind row {number}")
                size, at = end, separator.end() if separator else len(text)
                ended = not separator or separator[1] == "]"
            else:
                problem = budget.excess(text[at : end - 1].encode())
                size, at = end - at, end
            yield over_budget(problem) if problem else TextRow.of(value, size)
            number += 1
        if rest := (text[at:] + file.read(_PIECE)).strip():
            raise SourceError(_why_no_array(path, number, rest, "something follows its end"))


def _content_at(text: str, at: int) -> int:
    """Return where the next text that is not white space begins, from a position on."""
    space = _SPACE.match(text, at)
    assert space, "no space is a match, too"
    return space.end()


def _element(text: str, at: int) -> tuple[Any, int, bool]:
    """Return an array's element at a position, the position behind it, and whether it is the last.

    Raises ValueError when the text is no JSON or breaks off.
    """
    value, end = _DECODER.raw_decode(text, _content_at(text, at))
    separator = _SEPARATOR.match(text, end)
    if not separator:
        raise ValueError("no comma follows")
    return value, separator.end(), separator[1] == "]"


def _extent(file: IO[str], text: str) -> tuple[str, int, str | None]:
    """Find the end of a JSON value that may continue in a file, and count what it has on the way.

    Returns the text, which begins with the value, the position of the value's end (0: there is
    none), and what it has too much of, if anything; then its beginning is no longer in the text.
    """
    budget = BUDGET.get()
    at = dropped = depth = deepest = count = end = 0
    quoted = False
    while not end:
        match = (_IN_TEXT if quoted else _OUTSIDE).search(text, at)
        if not match:
            piece = file.read(max(_PIECE, len(text) // 2))
            if not piece:
                break
            if (
                dropped + len(text) > budget.bytes
                or count > budget.values + 1  # an empty list counts until it is closed
                or deepest > budget.depth
            ):
                dropped, at, text = dropped + len(text), max(0, at - len(text)), ""
            else:
                at = max(at, len(text))
            text += piece
            continue
        mark, at = match[0], match.end()
        if quoted:
            quoted, at = mark != '"', at + (mark == "\\")
            end = 0 if quoted or depth else at
        elif mark == '"':
            quoted = True
        elif mark in "[{":
            depth, count = depth + 1, count + 1
            deepest = max(deepest, depth)
        elif not depth:  # behind a number or a name
            end = match.start()
        elif mark == ",":
            count += 1
        else:
            depth -= 1
            count -= text[at - 2 : at] in ("[]", "{}")
            end = 0 if depth else at
    while end and not text[end:].strip() and (piece := file.read(_PIECE)):
        text += piece  # what follows the value
    problem = None
    if dropped + end > budget.bytes:
        problem = budget.over_bytes(dropped + end)
    elif count > budget.values:
        problem = budget.over_values(count)
    elif deepest > budget.depth:
        problem = budget.over_depth(deepest)
    return text, end, problem


def _why_no_array(path: Path, number: int, text: str, error: object) -> str:
    reason = f"{error}".partition(": line ")[0]  # its line counts from where reading went on
    return (
        f"dataset.source: {path} is not a JSON array: {reason or type(error).__name__} at row {number}: "
        f"{shown(text.lstrip())}; correct it, or store one JSON object per line"
    )
