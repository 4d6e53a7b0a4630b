"""Lines below the text of an answer that are none of it: a signature, a rater's marks, a page's foot.
They are short, and no sentences, behind the end of one.

Songs, lists and forms have such lines as well, but all the way, and the question tells of them.
"""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from expectations.data.profile.shapes import Group, frequencies

if TYPE_CHECKING:
    import polars as pl

_TAIL, _LINE = 500, 60  # characters that are looked at; of a line
_MOST = 6  # lines below a text
_CLOSED = re.compile(r"[.!?:…。！？)\]}>\"'”;,|`*]\W*$|^\W+$")
_OF_THE_TEXT = re.compile(r"^(?:[-*•+#|>]|\d+[.)]|[a-zA-Z][.)] )|[{}();=<>]")
_SHARE = 0.1  # of letters, as many end so because they are asked for
# A last line or sentence with a number and what it counts: Style: 3/5, [4/5], Likert=4 agree=2.
_LAST = r"(?:\n|[.!?] )[ \t]*([^\n]{1,70})$"
_FIGURE = (
    r"\p{L}[)\]]? ?[:=] ?\d{1,3}(?:[./]\d{1,3})?(?:\b|%)|\b\d{1,3} ?/ ?\d{1,3}\b|[(\[]\d{1,3} \p{L}"
)
_NO_MARK = r"^(?:[-*•+#|>]|\d+[.)])|[.!?;{}]$|\$"
_FIGURES, _ANNOUNCED = 0.03, 0.02
_MARKS = 10  # characters at the end of an answer


def tails(frame: "pl.DataFrame") -> Iterator[Group]:
    """Yield the answers with such lines at their end: `frame` has `answer`."""
    import polars as pl

    answers = frame["answer"].str.strip_chars_end().str.tail(_TAIL)
    group = pl.Series([_has_tail(answer) for answer in answers], dtype=pl.Boolean)
    words = "end with short lines that are no sentence, below a finished text"
    yield Group(words, _SHARE, group.to_numpy(), "end")
    last = answers.str.extract(_LAST)
    marked = last.str.contains(_FIGURE) & ~last.str.contains(_NO_MARK)
    marked &= ~answers.str.contains("```", literal=True)
    words = "end with a mark: a number and what it counts, behind the text"
    yield Group(words, _FIGURES, marked.fill_null(False).to_numpy(), "end")
    yield _same_marks(answers)
    words = "end by announcing what does not come"
    yield Group(words, _ANNOUNCED, answers.str.contains(r"\p{L}:$").to_numpy(), "end")


def _same_marks(answers: "pl.Series") -> Group:
    """Return the answers that end with the figure and the marks around it that most end with, of those
    that are not one text: `answers` are ends of answers."""
    import polars as pl

    marks = answers.str.tail(4 * _MARKS).str.replace_all(r"\d+", "0").str.tail(_MARKS)
    # Sentences end with years and prices; what a tool counts stands in brackets of its own.
    counted = marks.str.contains(r"[\[{<…][^\[{<…]*0")
    once = answers.is_first_distinct() & counted
    counts = frequencies(marks.filter(once), 1)
    most = None if counts.is_empty() else counts[marks.name][0]
    group = (marks == most) if most else pl.repeat(False, len(marks), eager=True)
    return Group("end with the same words and marks around a number", 0.04, group.to_numpy(), "end")


def _has_tail(answer: str) -> bool:
    if "```" in answer:
        return False
    lines = filter(None, map(str.strip, reversed(answer.split("\n"))))
    for below, line in enumerate(lines):
        if _CLOSED.search(line):
            return below > 0
        is_odd = below == _MOST or not any(map(str.isalpha, line))
        if len(line) > _LINE or is_odd or _OF_THE_TEXT.search(line):
            return False
    return False
