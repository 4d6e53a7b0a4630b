"""Sentences that answers to unlike questions say again: of a tool around them, or of a model that was
told to think aloud, to play someone, or to say which of two answers is better."""

from typing import TYPE_CHECKING

from expectations.data.profile.alarms import LEAST_GROUP
from expectations.data.profile.shapes import Group

if TYPE_CHECKING:
    import polars as pl

_ADDRESS = r"https?://\S+"
_SENTENCE = r"[^.!?\n。！？]+"
_WORDS = r"\S+\s+\S+\s+\S"  # three and more
_AGAIN = 0.01  # share of answers that say a sentence, from which it is a frame
_FRAMES = 2  # of one answer; a single one is a phrase
_ONLY_THEY, _MOST = 0.7, 0.45  # of the answers that say one; their share
_SHARE = 0.05


def frames(frame: "pl.DataFrame") -> Group:
    """Return the answers that say several sentences that others say, but for numbers and letters that
    stand alone: `frame` has `prose`, the answers without their code."""
    import numpy as np
    import polars as pl

    text = pl.col("prose").str.replace_all(_ADDRESS, "").str.to_lowercase()
    masked = text.str.replace_all(r"\b(?:\d+|[a-z])\b", "0")
    said = (
        frame.select("answer", sentence=masked.str.extract_all(_SENTENCE))
        .with_row_index("place")
        .filter(~pl.col("answer").is_duplicated())
        .select("place", "sentence")  # the answer would stand beside each of its sentences
        .explode("sentence")
        .drop_nulls()
        .select("place", pl.col("sentence").str.strip_chars(" \t*_#>-"))
        .filter(pl.col("sentence").str.contains(_WORDS))
        .unique()
    )
    often = said.with_columns(count=pl.len().over("sentence")).filter(
        pl.col("count") >= max(LEAST_GROUP, _AGAIN * len(frame))
    )
    each = often.group_by("place").len()
    several = each.filter(pl.col("len") >= _FRAMES)["place"]
    group = np.zeros(len(frame), dtype=bool)
    # Of what is made from templates nearly all answers say one, and many no more than that.
    if _ONLY_THEY * len(each) <= len(several) and len(each) <= _MOST * len(frame):
        group[several.to_numpy()] = True
    words = "say several sentences that others say, whatever is asked"
    return Group(words, _SHARE, group, "answer")
