"""JSON texts that are one object: whether one breaks off, and whether it is a table by id, not a row."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

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

    Said by the file's beginning: it may be large, and as a whole it takes many times its size. A list
    among the entries is a conversation, or the rows.
    """
    entries = list(_entries(head))
    if len(entries) < _ENTRIES or not all(is_object for _, is_object in entries):
        return
    shown = ", ".join(repr(mask(name)[:40]) for name, _ in entries[:2])
    raise SourceError(
        f"dataset.source: {path.name} is one object whose entries ({shown}, …) are objects by their "
        f"names, not a list of rows; store one row per line, each an object with its conversation "
        f"as `messages`"
    )


def _entries(head: str) -> Iterator[tuple[str, bool]]:
    """Yield an object's entries and whether each is an object, as far as its beginning tells."""
    at = 1
    while key := _KEY.match(head, at):
        at = _behind_space(head, key.end())
        if at < len(head):
            yield key[1], head[at] == "{"
        try:
            _, at = _DECODER.raw_decode(head, at)
        except (ValueError, RecursionError):
            return
        at = _behind_space(head, at)
        if head[at : at + 1] != ",":
            return
        at += 1


def _behind_space(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    assert space, "no space is a match, too"
    return space.end()
