"""Marks and letters where no text has them: inside words, at the beginning of lines, in the place of
digits, two together.

No mark is looked for by itself. Whatever stands where the punctuation and Markdown of ordinary texts
never does is counted, and the one that most answers have is named.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from expectations.data.profile.shapes import HEAD, Group, frame_mask, frequencies

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

_ADDRESS = r"https?://\S+"
_ODD = (
    # Within a word: whatever does not join the parts of one.
    r"[\p{L}\p{N}][^\p{L}\p{N}\p{M}\s'’.\-–—/_&@:+,;()\"“”%=?!|]+\p{L}"
    # Before a line: whatever begins neither a list, a heading, a table nor something quoted.
    r"|(?m)^[>+<~^@%=;,.}\])]+"
    # Two marks together with which Markdown and sentences begin or end nothing.
    r"|[<\[({][@#!%$^~|:\[{<]|'{2,}|~~|[\]}]{2}"
    # Symbols that are none of punctuation, arithmetic, currencies, arrows, boxes and emoji.
    r"|[^\x00-\x7f\p{L}\p{N}\p{M}\p{P}\p{Sc}\s°×÷→←↑↓⇒⇐↔≤≥≠≈≡±√∑∏∫∂∞π−©®™´¨¬¦`ˆ"
    r"\x{2200}-\x{22FF}\x{2500}-\x{259F}\x{2600}-\x{27BF}\x{1F000}-\x{1FAFF}\p{Cf}\p{Co}]"
)
_TIMES = 3  # in one answer; once, it is what is talked about
_SAME_DIGITS = 5  # digits of an answer that are all the same


def marks(frame: "pl.DataFrame") -> Iterator[Group]:
    """Yield groups of answers: `frame` has `prose`, the answers without their code."""
    import polars as pl

    mark, group = _odd_marks(frame)
    words = f"have {mark!r} again and again where no text has it" if mark else ""
    yield Group(words, 0.04, group, "answer")
    digits = pl.col("prose").str.replace_all(r"\D", "")
    first = digits.str.head(1)
    same = (digits.str.len_chars() >= _SAME_DIGITS) & (digits.str.strip_chars(first) == "")
    words = "have numbers of one and the same digit"
    yield Group(words, 0.06, frame.select(same).to_series().to_numpy(), "answer")


def _odd_marks(frame: "pl.DataFrame") -> "tuple[str, np.ndarray]":
    """Return the mark that most answers have where ordinary texts have none, and which answers do."""
    import polars as pl

    text = pl.col("prose").str.head(HEAD).str.replace_all(_ADDRESS, "a")
    found = (
        frame.select(mark=text.str.extract_all(_ODD))
        .with_row_index("place")
        .explode("mark")
        .drop_nulls()
        # How many of it stand there is no matter.
        .with_columns(pl.col("mark").str.replace_all(r"[\p{L}\p{N}]", "").str.head(1))
        .filter(pl.col("mark") != "")
    )
    often = found.group_by("place", "mark").len().filter(pl.col("len") >= _TIMES)
    counts = frequencies(often["mark"], 1)
    mark = "" if counts.is_empty() else counts["mark"][0]
    return mark, frame_mask(often.filter(pl.col("mark") == mark)["place"], len(frame))
