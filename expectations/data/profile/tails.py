"""Lines below the text of an answer that are none of it: a signature, a rater's marks, a page's foot. They
are short, and no sentences, behind the end of one.

Songs, lists and forms have such lines as well, but all the way, and the question tells of them.
"""

import re
from typing import TYPE_CHECKING

from expectations.data.profile.shapes import Group

if TYPE_CHECKING:
    import polars as pl

_TAIL, _LINE = 500, 60  # characters that are looked at; of a line
_MOST = 6  # lines below a text
_CLOSED = re.compile(r"[.!?:…。！？)\]}>\"'”;,|`*]\W*$|^\W+$")
_OF_THE_TEXT = re.compile(r"^(?:[-*•+#|>]|\d+[.)]|[a-zA-Z][.)] )|[{}();=<>]")
_SHARE = 0.04


def tails(frame: "pl.DataFrame") -> Group:
    """Return the answers with such lines at their end: `frame` has `answer`."""
    import polars as pl

    answers = frame["answer"].str.strip_chars_end().str.tail(_TAIL)
    group = pl.Series([_has_tail(answer) for answer in answers], dtype=pl.Boolean)
    words = "end with short lines that are no sentence, below a finished text"
    return Group(words, _SHARE, group.to_numpy(), "end")


def _has_tail(answer: str) -> bool:
    if "```" in answer:
        return False
    below = 0
    for line in filter(None, map(str.strip, reversed(answer.split("\n")))):
        if _CLOSED.search(line):
            return below > 0
        if len(line) > _LINE or below == _MOST or _OF_THE_TEXT.search(line):
            return False
        below += 1
    return False
