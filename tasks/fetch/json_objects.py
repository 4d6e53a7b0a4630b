"""JSON texts that are one object: whether one breaks off, and whether it is a table by id, not a row."""

import json
import re
from pathlib import Path
from typing import Any

from expectations.data.masking import mask
from retune.sources import SourceError

_DECODER = json.JSONDecoder()
_ENTRIES = 3  # objects in an object, from which on it is a table and no row
_SPACE, _KEY = re.compile(r"\s*+"), re.compile(r'\s*+"((?:[^"\\]|\\.)*+)"\s*+:', re.DOTALL)


def is_begun(text: str) -> bool:
    """Say whether a text is the beginning of a JSON object or array that never ends."""
    if not text.lstrip().startswith(("{", "[")):
        return False
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        return error.msg.startswith("Unterminated string") or not text[error.pos :].strip(
            "\ufffd \t\r\n"
        )
    except RecursionError:
        return False
    return False


def require_no_table(path: Path, head: str) -> None:
    """Raise SourceError if a file's beginning is an object whose entries are objects: rows by their ids,
    or columns.

    Said by the first few: the file may be large, and as a whole it takes many times its size.
    """
    entries = _first_entries(head)
    if len(entries) < _ENTRIES or not all(isinstance(value, dict) for value in entries.values()):
        return
    shown = ", ".join(repr(mask(name)[:40]) for name in list(entries)[:2])
    raise SourceError(
        f"dataset.source: {path.name} is one object whose entries ({shown}, …) are objects by their "
        f"names, not a list of rows; store one row per line, each an object with its conversation "
        f"as `messages`"
    )


def _first_entries(head: str) -> dict[str, Any]:
    """Return the first entries of an object, as far as its beginning has them whole."""
    entries: dict[str, Any] = {}
    at = 1
    while len(entries) < _ENTRIES and (key := _KEY.match(head, at)):
        try:
            value, end = _DECODER.raw_decode(head, _behind_space(head, key.end()))
        except (ValueError, RecursionError):
            break
        entries[key[1]] = value
        at = _behind_space(head, end)
        if head[at : at + 1] != ",":
            break
        at += 1
    return entries


def _behind_space(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    assert space, "no space is a match, too"
    return space.end()
