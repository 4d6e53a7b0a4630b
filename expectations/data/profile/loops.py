"""Answers that say their own sentences or lines again: a list that went on counting, a text that a second
try stands below, a loop at the end."""

from typing import TYPE_CHECKING

from expectations.data.profile.shapes import Group, frame_mask

if TYPE_CHECKING:
    import polars as pl

_NUMBER = (
    r"(?m)^\s*(?:\d+[.)]|[-*•])\s+"  # of an entry, which counts on while the entry is the same
)
_UNIT = r"[^.!?\n。！？]+"
_LEAST_CHARS, _UNITS = 12, 6
_DIFFERENT = 0.6  # share of different units, at most; of songs and forms it is more


def loops(frame: "pl.DataFrame") -> Group:
    """Return the answers whose sentences and lines are the same ones again: `frame` has `prose`, the
    answers without their code."""
    import polars as pl

    text = pl.col("prose").str.to_lowercase().str.replace_all(_NUMBER, "")
    units = (
        frame.select(unit=text.str.extract_all(_UNIT))
        .with_row_index("place")
        .filter(pl.col("unit").list.len() >= _UNITS)
        .explode("unit")
        .with_columns(pl.col("unit").str.strip_chars(" \t*_#>-"))
        .filter(pl.col("unit").str.len_chars() >= _LEAST_CHARS)
    )
    each = units.group_by("place").agg(every=pl.len(), different=pl.col("unit").n_unique())
    again = each.filter(
        (pl.col("every") >= _UNITS) & (pl.col("different") <= _DIFFERENT * pl.col("every"))
    )
    words = "say the same sentences or lines again and again"
    return Group(words, 0.03, frame_mask(again["place"], len(frame)), "end")
