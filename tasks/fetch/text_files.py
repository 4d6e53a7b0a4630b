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
from tasks.fetch.conversations import PAIRS, SYSTEM_COLUMNS, TURN_COLUMNS, layout_of
from tasks.fetch.values import Unreadable, parse_json, shown

if TYPE_CHECKING:
    import pyarrow as pa

_HEAD = 1 << 20  # characters in which the layout of a JSON file shows
_LARGEST_DOCUMENT = 256 << 20  # bytes of a file that is one JSON object, read as a whole
_LARGEST_ROW = 64 << 20  # characters of a row in a JSON array
_BATCH_ROWS, _BATCH_BYTES = 2000, 32 << 20
_MOST_BRACKETS = 2000  # in a row; pyarrow's JSON reader crashes when 10,000 are nested

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
            parse_options=pj.ParseOptions(explicit_schema=_expected_schema()),
        )
        table.validate(full=True)
    except (UnicodeDecodeError, pa.ArrowException):
        return None
    return table if len(table) == len(lines) else None


def _expected_schema() -> "pa.Schema":
    """Return types for the columns that are read, so that Arrow takes no text for a date."""
    import pyarrow as pa

    turn = pa.struct([(key, pa.string()) for key in ("from", "value", "role", "content")])
    texts = {name for pair in PAIRS for name in pair[1:] if name} | {*SYSTEM_COLUMNS, "source"}
    return pa.schema(
        [
            *((name, pa.list_(turn)) for name in TURN_COLUMNS),
            *((name, pa.string()) for name in sorted(texts)),
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


def _lines(path: Path) -> Iterator[Line]:
    """Return the lines of a file that are not blank."""
    with _open_lines(path) as file:
        for number, line in enumerate(file, start=1):
            text = (line.encode() if isinstance(line, str) else line).strip()
            text = text.removeprefix(codecs.BOM_UTF8).strip()
            if text:
                yield Line(number, text)


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
    return [value]


def _array_rows(path: Path) -> Iterator[Any]:
    """Return the elements of a JSON array, with no more than a piece of the file in memory."""
    with _open_text(path) as file:
        text, number = file.read(_HEAD), 0
        at = _SPACE.match(text, text.index("[") + 1).end()
        ended = text[at : at + 1] == "]"
        at += ended
        while not ended:
            try:
                row, at, ended = _element(text, at)
            except (ValueError, RecursionError) as error:
                piece = file.read(max(_HEAD, len(text) - at))
                if not piece or len(text) - at > _LARGEST_ROW:
                    raise SourceError(_why_no_array(path, number, text[at:], error)) from None
                text, at = text[at:] + piece, 0  # it may only go on behind what was read
            else:
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
    with _open_text(path) as file:
        reader = csv.reader(file, strict=True)
        try:
            header = next((cells for cells in reader if cells), [])
        except csv.Error as error:
            raise SourceError(f"dataset.source: {path} has no CSV header ({error})") from None
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield Unreadable(f"line {line} is not CSV ({error})")
                continue
            if cells:
                yield _csv_row(header, cells, line)


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
