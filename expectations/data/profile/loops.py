"""Answers that say their own sentences or lines again: a list that went on counting, a text that a second
try stands below, a loop at the end, pieces of a text that overlap."""

from typing import TYPE_CHECKING

from expectations.data.profile.shapes import Group, frame_mask
from expectations.data.profile.wording import runs_of

if TYPE_CHECKING:
    import polars as pl

_NUMBER = (
    r"(?m)^\s*(?:\d+[.)]|[-*•])\s+"  # of an entry, which counts on while the entry is the same
)
_UNIT = r"[^.!?\n。！？]+"
_LEAST_CHARS, _UNITS = 12, 6
_PART = 1_500  # answers that are looked at first, spread evenly
_RUN, _APART = 8, (11, 60)  # words in a row that stand twice, and how many words apart
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


def twice_in_a_row(words: "pl.DataFrame", count: int) -> Group:
    """Return which of `count` answers say some words and then at once the same ones again, as where
    overlapping pieces of a text were joined: `words` is what `wording.words_of` returns."""
    import polars as pl

    step, share = max(1, -(-count // _PART)), 0.08  # refrains are fewer
    places = _repeating(words.filter(pl.col("place") % step == 0))
    # A part first: hardly any set has such answers.
    if step > 1:
        is_mass = len(places) >= share / 2 * count / step
        places = _repeating(words if is_mass else words.clear())
    text = "say a part of their text twice in a row"
    return Group(text, share, frame_mask(places, count), "answer")


def _repeating(words: "pl.DataFrame") -> "pl.Series":
    """Return the places of the texts in which a run of words is followed by itself."""
    import numpy as np
    import polars as pl

    place, starts, runs = runs_of(words, _RUN)
    # The same run, next in the same text.
    key = runs ^ (place.astype(np.uint64) * np.uint64(0xD6E8FEB86659FD93))
    order = np.argsort(key, kind="stable")
    same = np.flatnonzero(key[order][1:] == key[order][:-1])
    first, apart = order[same], starts[order[same + 1]] - starts[order[same]]
    near = (apart >= _APART[0]) & (apart <= _APART[1])
    found = pl.DataFrame({"place": place[first[near]], "apart": apart[near]})
    each = found.group_by("place", "apart").len()
    whole = pl.col("len").cast(pl.Int64) > pl.col("apart") - _RUN - 2
    return each.filter(whole)["place"].unique()
