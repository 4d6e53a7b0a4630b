"""Whether code kept what a copy loses, the indentation of its blocks and its brackets, and whether it
took something along: marks before its lines, as of a comparison or a quotation."""

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

from expectations.data.profile.shapes import Group

if TYPE_CHECKING:
    import polars as pl

_FENCE = r"(?s)```[^\n]*\n.*?(?:```|$)"
_LINES, _OPENED = 4, 2  # of code, and those that open a block
_ENDED = 3  # lines that end as those of a programming language do
_OPENERS, _ENDS = ("{", "(", "[", ":"), (";", ":")
_BRACKETS = "(){}[]"
_MARKS = "+~^=,;>!?:&"  # with which hardly a line of any language begins
_MARKED = 0.2  # share of the lines


def code(frame: "pl.DataFrame") -> Iterator[Group]:
    """Yield groups of answers: `frame` has `answer`."""
    import polars as pl

    blocks = [
        [_lines(block) for block in found]
        for found in frame.select(pl.col("answer").str.extract_all(_FENCE)).to_series()
    ]
    # Questions tell who has code; which code is bad they tell of those alone.
    has_code = pl.Series([any(len(lines) >= _LINES for lines in own) for own in blocks])
    for words, is_bad in (
        ("have code whose blocks are not indented", _is_flat),
        ("have code without any bracket", _is_bare),
        ("have code with marks before its lines", _is_marked),
    ):
        group = pl.Series([any(map(is_bad, own)) for own in blocks], dtype=pl.Boolean)
        yield Group(words, 0.03, group.to_numpy(), "answer", has_code.to_numpy())


def _lines(block: str) -> list[str]:
    return [line.rstrip() for line in block.split("\n")[1:] if line.strip(" \t`")]


def _is_flat(lines: list[str]) -> bool:
    inside = [after for line, after in pairwise(lines) if line.endswith(_OPENERS)]
    return len(lines) >= _LINES and len(inside) >= _OPENED and not any(map(_is_indented, inside))


def _is_indented(line: str) -> bool:
    return line[:1] in (" ", "\t")


def _is_bare(lines: list[str]) -> bool:
    ended = sum(line.endswith(_ENDS) for line in lines)
    return ended >= _ENDED and not any(mark in line for line in lines for mark in _BRACKETS)


def _is_marked(lines: list[str]) -> bool:
    firsts = [line[0] for line in lines if line[0] in _MARKS]
    most = max(map(firsts.count, set(firsts)), default=0)
    return len(lines) >= _LINES and most >= max(_ENDED, _MARKED * len(lines))
