"""JSON and CSV files, read tolerantly: what is wrong with a row is that row's problem alone.

`datasets` would guess types from a file's beginning: a text that looks like a date, a number or
`null` then is no longer what the file says, and one odd row stops it.
"""

import codecs
import csv
import io
import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from retune.sources import SourceError
from tasks.fetch.batches import Batch
from tasks.fetch.budget import BUDGET
from tasks.fetch.conversations import (
    PAIRS,
    PREFERENCE_COLUMNS,
    SYSTEM_COLUMNS,
    TOOL_COLUMNS,
    TURN_COLUMNS,
    layout_of,
)
from tasks.fetch.values import Unreadable, parse_json, shown

if TYPE_CHECKING:
    import pyarrow as pa

_HEAD = 1 << 20  # characters in which the layout of a JSON file shows
_LARGEST_DOCUMENT = 256 << 20  # bytes of a file that is one JSON object, read as a whole
_BATCH_ROWS, _BATCH_BYTES = 2000, 32 << 20
_MOST_BRACKETS = 2000  # in a row; pyarrow's JSON reader crashes when 10,000 are nested

_PIECE = 1 << 20  # characters read at a time of what is only counted
_IN_TEXT, _OUTSIDE = re.compile(r'["\\]'), re.compile(r'["\[\]{},]')
_SPACE, _SEPARATOR = re.compile(r"\s*"), re.compile(r"\s*([,\]])")
_DECODER = json.JSONDecoder()


class Line(NamedTuple):
    """A line of a JSON Lines file, numbered from 1; its text is UTF-8, or meant to be."""

    number: int
    text: bytes

    def parse(self) -> Any:
        """Return the line's value, or the Unreadable that stands for it."""
        try:
            return parse_json(self.text.decode("utf-8", "replace"), f"line {self.number}")
        except Unreadable as problem:
            return problem


def batches(items: Iterable[Any]) -> Iterator[Batch]:
    """Return the rows that `json_rows` or `csv_rows` gave as batches of bounded size."""
    held: list[Any] = []
    size = 0
    for item in items:
        held.append(item)
        size += len(item.text) if isinstance(item, Line) else 0
        if len(held) >= _BATCH_ROWS or size >= _BATCH_BYTES:
            yield _batch(held)
            held, size = [], 0
    if held:
        yield _batch(held)


def _batch(items: list[Any]) -> Batch:
    lines = [item.text for item in items if isinstance(item, Line)]
    columns = _as_columns(lines) if len(lines) == len(items) else None
    return Batch(
        columns, lambda: [item.parse() if isinstance(item, Line) else item for item in items]
    )


def _as_columns(lines: list[bytes]) -> "pa.Table | None":
    """Parse lines by Arrow; None unless each is an object, with texts where texts are expected."""
    import pyarrow as pa
    import pyarrow.json as pj

    # Other lines pyarrow may not only refuse: a `null` crashes it, two objects become two rows.
    if not all(line[:1] == b"{" and line[-1:] == b"}" for line in lines):
        return None
    if any(line.count(b"{") + line.count(b"[") > _MOST_BRACKETS for line in lines):
        return None
    data = b"\n".join(lines)
    try:
        data.decode()
        table = pj.read_json(
            io.BytesIO(data),
            read_options=pj.ReadOptions(block_size=len(data) + 1),  # a row must not span blocks
            # Unknown keys would be columns, each as long as the batch: a million of them in a row.
            parse_options=pj.ParseOptions(_expected_schema(), unexpected_field_behavior="ignore"),
        )
        table.validate(full=True)
    except (UnicodeDecodeError, pa.ArrowException):
        return None
    return table if len(table) == len(lines) else None


def _expected_schema() -> "pa.Schema":
    """Return types for the columns that are read, so that Arrow takes no text for a date.

    Columns of nulls are those that only the reading by rows understands: a value ends this one.
    """
    import pyarrow as pa

    by_rows = (*TOOL_COLUMNS, *PREFERENCE_COLUMNS, "history", "label")
    turn = pa.struct(
        [(key, pa.string()) for key in ("from", "value", "role", "content")]
        + [(key, pa.null()) for key in ("tool_calls", "function_call")]
    )
    texts = {name for pair in PAIRS for name in pair[1:] if name} | {*SYSTEM_COLUMNS, "source"}
    return pa.schema(
        [
            *((name, pa.list_(turn)) for name in TURN_COLUMNS),
            *((name, pa.string()) for name in sorted(texts)),
            *((name, pa.null()) for name in by_rows),
            ("score", pa.float64()),
        ]
    )


def json_rows(path: Path) -> Iterator[Any]:
    """Return the rows of a JSON file: Lines, or the values in a JSON array or in an object's list.

    Raises SourceError when an array breaks off: where its next row begins cannot be known.
    """
    with _open_text(path) as file:
        head = file.read(_HEAD).lstrip()
    if not head.startswith(("[", "{")) or _more_follows(head):
        return _lines(path)
    if head.startswith("["):
        return _array_rows(path)
    rows = _object_rows(path) if path.stat().st_size <= _LARGEST_DOCUMENT else None
    return _lines(path) if rows is None else iter(rows)


def _more_follows(head: str) -> bool:
    """Say whether a file begins with a whole JSON value and something else."""
    try:
        _, end = _DECODER.raw_decode(head)
    except (ValueError, RecursionError):
        return False
    return bool(head[end:].strip())


def _lines(path: Path) -> Iterator[Line | Unreadable]:
    """Return the lines of a file that are not blank, an Unreadable for each over the budget."""
    budget = BUDGET.get()
    with _open_lines(path) as file:
        for number, (line, size) in enumerate(_bounded(file, budget.bytes), start=1):
            if size > budget.bytes:
                yield Unreadable(budget.over_bytes(size, f"line {number}"))
                continue
            text = (line.encode() if isinstance(line, str) else line).strip()
            text = text.removeprefix(codecs.BOM_UTF8).strip()
            if problem := budget.excess(text, f"line {number}"):
                yield Unreadable(problem)
            elif text:
                yield Line(number, text)


def _bounded(file: IO[Any], limit: int) -> Iterator[tuple[Any, int]]:
    """Return each line of a file and its size but for the line feed; of one that is longer than
    `limit`, the beginning."""
    while line := file.readline(limit + 1):
        size, part = len(line), line
        while part and part[-1:] not in ("\n", b"\n"):
            part = file.readline(_PIECE)
            size += len(part)
        yield line, size - bool(part)


def _object_rows(path: Path) -> list[Any] | None:
    """Return the rows of a file that is one JSON object; None if it is not.

    The object is a row itself, or holds a list of rows and no other list.
    """
    with _open_text(path) as file:
        try:
            value = json.load(file)
        except (ValueError, RecursionError):
            return None
    lists = [item for item in value.values() if isinstance(item, list)]
    of_rows = [items for items in lists if items and isinstance(items[0], dict)]
    if layout_of(value) is None and len(lists) == len(of_rows) == 1:
        return of_rows[0]
    with path.open("rb") as file:
        problem = BUDGET.get().excess(file.read())
    return [Unreadable(problem) if problem else value]


def _array_rows(path: Path) -> Iterator[Any]:
    """Return the elements of a JSON array, with no more than a piece of the file in memory, and an
    Unreadable for each over the budget."""
    budget = BUDGET.get()
    with _open_text(path) as file:
        text, number = file.read(_HEAD), 0
        at = _SPACE.match(text, text.index("[") + 1).end()
        ended = text[at : at + 1] == "]"
        at += ended
        while not ended:
            try:
                row, end, ended = _element(text, at)
            except (ValueError, RecursionError) as error:
                # It may only go on behind what was read, or be too deep.
                text, end, problem = _extent(file, text[_SPACE.match(text, at).end() :])
                separator = _SEPARATOR.match(text, end) if end else None
                if not separator:
                    raise SourceError(_why_no_array(path, number, text, error)) from None
                try:
                    row = Unreadable(problem) if problem else json.loads(text[:end])
                except (ValueError, RecursionError) as error:
                    raise SourceError(_why_no_array(path, number, text, error)) from None
                at, ended = separator.end(), separator[1] == "]"
            else:
                if problem := budget.excess(text[at : end - 1].encode()):
                    row = Unreadable(problem)
                at = end
            yield row
            number += 1
        if rest := (text[at:] + file.read(_HEAD)).strip():
            raise SourceError(_why_no_array(path, number, rest, "something follows its end"))


def _element(text: str, at: int) -> tuple[Any, int, bool]:
    """Return an array's element at a position, the position behind it, and whether it is the last.

    Raises ValueError when the text is no JSON or breaks off.
    """
    value, end = _DECODER.raw_decode(text, _SPACE.match(text, at).end())
    separator = _SEPARATOR.match(text, end)
    if not separator:
        raise ValueError("no comma follows")
    return value, separator.end(), separator[1] == "]"


def _extent(file: IO[str], text: str) -> tuple[str, int, str | None]:
    """Find the end of a JSON value that may go on in a file, and count what it has on the way.

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


def csv_rows(path: Path) -> Iterator[Any]:
    """Return the rows of a CSV file as objects of texts; an empty cell is absent.

    Raises SourceError when there is no header.
    """
    csv.field_size_limit(sys.maxsize)  # 128 KiB by default, little for a conversation
    budget = BUDGET.get()
    with _open_text(path) as file:
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
                yield Unreadable(budget.over_bytes(lines.size, f"the row of line {line}"))
                continue
            except csv.Error as error:
                yield Unreadable(f"line {line} is not CSV ({error})")
                continue
            if len(cells) > budget.values:
                yield Unreadable(budget.over_values(len(cells), f"line {line}"))
            elif cells:
                yield _csv_row(header, cells, line)


class _RowTooLarge(ValueError):
    """A row of a CSV file that is over the budget."""


class _RowLines:
    """The lines of a CSV file, for `csv.reader`; raises _RowTooLarge within a row over `limit`."""

    def __init__(self, file: IO[str], limit: int) -> None:
        self._lines, self._limit = _bounded(file, limit), limit
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


def _csv_row(header: list[str], cells: list[str], line: int) -> dict[str, str] | Unreadable:
    if len(cells) > len(header):
        return Unreadable(f"line {line} has {len(cells)} cells, but the header {len(header)}")
    return {name: cell for name, cell in zip(header, cells, strict=False) if cell}


def _encoding(path: Path) -> str:
    """Return a file's encoding by its byte order mark; UTF-8 if it has none."""
    with path.open("rb") as file:
        start = file.read(2)
    return "utf-16" if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"


def _open_text(path: Path) -> IO[str]:
    """Open a file as text, its line ends as they are; U+FFFD stands for what cannot be decoded."""
    return path.open(encoding=_encoding(path), errors="replace", newline="")


def _open_lines(path: Path) -> IO[Any]:
    """Open a file for its lines, which end with a line feed and nothing else."""
    if _encoding(path) == "utf-16":
        return path.open(encoding="utf-16", errors="replace", newline="\n")
    return path.open("rb")
