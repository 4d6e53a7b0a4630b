"""Text of strangers on its way out: what came with data or a model's card never acts, it is shown.

Rows, names and cards are written by others. Printed as they are, an escape sequence paints a false
"ACCEPTED" on a terminal, `![](http://…)` calls home from a page of Prefect, and a licence called
`](javascript:…` is a link in a model card. Every exit passes what it did not write itself through
the function of this module that is named for it.
"""

import html as _html
import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

LONGEST = 1000  # characters of one piece of foreign text on a screen
LONGEST_LINE = 4000  # characters of one line of a message; what has no end floods a terminal

# Categories of characters that are not seen, or that change how others are seen: controls, format
# characters (bidi overrides, zero width), surrogates, line and paragraph separators, private use.
_UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp", "Co"}
# Letters without ink, which a name may be spelt with to look like another.
_BLANK = "\u115f\u1160\u3164\uffa0\u2800"
# Emoji, Persian and Indic words are joined by them; between ASCII characters they only hide.
_JOINER = re.compile(r"(?<=[^\x00-\x7f])[\u200c\u200d](?=[^\x00-\x7f])")
_NOT_PLAIN = re.compile(r"[^\x20-\x7e]")

_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "&#124;"}
_ACTIVE = re.compile(
    r"[&<>|]"
    r"|[\\`*\[\]#~$]"
    r"|(?<![^\W_])_|_(?![^\W_])"  # inside a word it is a letter to Markdown
    r"|(?<=\w):(?=//)|(?<=\w)@(?=\w)|(?<=\bwww)\.",  # what is made a link without being one
    re.IGNORECASE,
)
_LIST = re.compile(r"^(\s*)([-+=]|\d+(?=[.)]))")  # or the line under a heading


def visible(text: object, limit: int = LONGEST) -> str:
    """Return foreign text as one line in which every character can be seen, at most `limit` long.

    What cannot be seen is written as Python writes it: `\\x1b`, `\\n`, `\\u202e`.
    """
    line = _escaped(_cut(str(text), limit), keep="")
    return _cut(line, 2 * limit)


def terminal(text: object) -> str:
    """Return a message that quotes foreign text as lines that do nothing to a terminal but print."""
    lines = _escaped(str(text), keep="\n\t").split("\n")
    return "\n".join(_cut(line, LONGEST_LINE) for line in lines)


def html(text: object, limit: int = LONGEST) -> str:
    """Return foreign text for the body or a quoted attribute of an HTML page, as one line."""
    return _html.escape(visible(text, limit))


def html_block(text: object) -> str:
    """Return foreign text of several lines for a `<pre>` of an HTML page."""
    return _html.escape(terminal(text))


def markdown(text: object, limit: int = LONGEST) -> str:
    """Return foreign text for a paragraph or a table's cell in Markdown, as one line that is no more
    than text: no heading, link, picture, formula, HTML or end of the cell."""
    line = _ACTIVE.sub(lambda match: _inactive(match[0]), visible(text, limit))
    match = _LIST.match(line)
    if not match:
        return line
    place = match.end() if match[2].isdigit() else match.start(2)
    return f"{line[:place]}\\{line[place:]}"


def code(text: object, limit: int = LONGEST) -> str:
    """Return foreign text as a span of code in Markdown, for names in a paragraph."""
    line = visible(text, limit)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    edge = " " if line[:1] in ("`", "") or line[-1:] == "`" else ""
    return f"{fence}{edge}{line}{edge}{fence}"


def code_block(text: str, language: str = "") -> str:
    """Return foreign text of several lines as a block of code in Markdown, which it cannot end."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{terminal(text)}\n{fence}"


def table(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of a table that Prefect shows as text: foreign text in them is seen whole.

    Columns have names: Prefect's page ends with an error at one that has none.
    """
    lines = [
        {name: visible(cell) if isinstance(cell, str) else cell for name, cell in row.items()}
        for row in rows
    ]
    assert all(name for row in lines for name in row), "a column without a name"
    return lines


def _escaped(text: str, keep: str) -> str:
    if not _NOT_PLAIN.search(text):
        return text
    joiners = {joiner.start() for joiner in _JOINER.finditer(text)}
    return "".join(
        character if character in keep or place in joiners else _escape(character)
        for place, character in enumerate(text)
    )


def _escape(character: str) -> str:
    if unicodedata.category(character) in _UNSEEN or character in _BLANK:
        return character.encode("unicode_escape", "surrogatepass").decode()
    return character


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _inactive(mark: str) -> str:
    if mark in _ENTITIES:
        return _ENTITIES[mark]
    if mark in (":", "@", "."):
        return f"&#{ord(mark)};"
    return f"\\{mark}"
