"""What is left where something was taken out of a text: two spaces between words, a currency without its
amount, brackets and quotation marks around nothing, lines of code of nothing but spaces.

A filter of digits, addresses or tags leaves its gaps wherever it struck, whatever it took.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from expectations.data.profile.shapes import Group

if TYPE_CHECKING:
    import polars as pl

_GAP = (
    r"\p{L}  \p{L}|\p{L} [.,](?:\s|$)|\p{L} %|\( *\)|[$€£](?:[\s.,;)]|$)"
    # The point of a list's entry whose number is gone.
    r"|(?m)^[.)] "
)
_GAPS = 2  # in one answer
_INLINE = r"(?:^|[^`])`[^`]"
_NOTHING_QUOTED = r"(?:^|[^`])``(?:[^`]|$)"
_NOTHING_SAID = r"(?:^|[\s(])(?:\"\"|“”|«»|‘’)(?:[\s.,;:)]|$)"
_EMPTY_LINES = r"\n[ \t]+\n[ \t]+\n"


def taken_out(frame: "pl.DataFrame") -> Iterator[Group]:
    """Yield groups of answers: `frame` has `answer` and `prose` (that without its code)."""
    import polars as pl

    answer, prose = pl.col("answer"), pl.col("prose")
    # Where code stood in a line, `prose` has a gap of its own.
    gaps = (prose.str.count_matches(_GAP) >= _GAPS) & ~answer.str.contains(_INLINE)
    code = answer.str.contains(_NOTHING_QUOTED) | answer.str.contains(_EMPTY_LINES)
    for words, share, found in (
        ("have gaps from which something was taken out", 0.025, gaps),
        ("have quotation marks around nothing", 0.025, prose.str.contains(_NOTHING_SAID)),
        ("have code of which something was taken out, but its quotes or lines", 0.03, code),
    ):
        yield Group(words, share, frame.select(found).to_series().to_numpy(), "answer")
