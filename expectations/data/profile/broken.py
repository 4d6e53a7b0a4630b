"""Words that lost something on the way out of a page: the letters that a font draws as one, or their
other half, behind a space.

Known words are those of the set itself, in whatever language.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from expectations.data.batches import spread
from expectations.data.profile.shapes import HEAD, Group, frame_mask

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

_PART = 1_500  # answers that are looked at first, spread evenly
_SHARE = 0.03
_TOKEN = r"\p{L}+|[^\p{L} ]+"  # between two words of which one was made, stands nothing else
_LIGATURES = "ffi|ffl|ff|fi|fl"
_WITH_LIGATURE, _LEAST_LETTERS = 5, 3  # answers that say the whole word; letters of what is left
_OFTENER = 3  # times as many say the whole word
_HALVES, _KNOWN, _WHOLE = 2, 3, 5  # in one answer; answers that say the whole word; its letters
_RARE = 0.01  # share of answers that say a half, of either one


def broken(frame: "pl.DataFrame") -> Iterator[Group]:
    """Yield groups of answers: `frame` has `prose`, the answers without their code."""
    # A part first: hardly any set has such words.
    part = spread(frame, _PART)
    tokens = _tokens(part)
    for words, look in (
        ("have lost the letters that a font draws as one (ff, fi, fl)", _without_ligatures),
        ("have words in two halves", _in_halves),
    ):
        group = look(tokens, len(part))
        if len(part) < len(frame):
            is_mass = group.mean() >= _SHARE / 2
            group = look(_tokens(frame) if is_mass else tokens.clear(), len(frame))
        yield Group(words, _SHARE, group, "answer")


def _tokens(frame: "pl.DataFrame") -> "pl.DataFrame":
    import polars as pl

    text = pl.col("prose").str.head(HEAD).str.to_lowercase()
    return (
        frame.select(word=text.str.extract_all(_TOKEN))
        .with_row_index("place")
        .explode("word")
        .drop_nulls()
    )


def _said(tokens: "pl.DataFrame") -> "pl.DataFrame":
    """Return each `word` and the number of answers that say it (`said`)."""
    return tokens.unique()["word"].value_counts(name="said")


def _without_ligatures(tokens: "pl.DataFrame", count: int) -> "np.ndarray":
    """Return which of `count` answers have words that are others without such letters."""
    import polars as pl

    said = _said(tokens)
    whole = said.filter(
        pl.col("word").str.contains("f[fil]") & (pl.col("said") >= _WITH_LIGATURE)
    ).with_columns(pl.col("word").str.replace_all(_LIGATURES, ""))
    left = whole.filter(pl.col("word").str.len_chars() >= _LEAST_LETTERS)
    left = left.group_by("word").agg(whole=pl.col("said").sum()).join(said, on="word")
    lost = left.filter(pl.col("whole") >= _OFTENER * pl.col("said"))["word"]
    places = tokens.filter(pl.col("word").is_in(lost.implode()))["place"]
    return frame_mask(places, count)


def _in_halves(tokens: "pl.DataFrame", count: int) -> "np.ndarray":
    """Return which of `count` answers have words that follow each other and are one that others
    say, where either is rare by itself."""
    import polars as pl

    said = _said(tokens)
    rare = said.filter(pl.col("said") <= max(2, _RARE * count))["word"].implode()
    after = pl.when(pl.col("place") == pl.col("place").shift(-1)).then(pl.col("word").shift(-1))
    pairs = tokens.with_columns(after=after).filter(
        pl.col("word").is_in(rare) | pl.col("after").is_in(rare)
    )
    whole = said.filter((pl.col("said") >= _KNOWN) & (pl.col("word").str.len_chars() >= _WHOLE))
    joined = pairs.select("place", word=pl.col("word") + pl.col("after")).drop_nulls()
    each = joined.join(whole, on="word", how="semi").group_by("place").len()
    return frame_mask(each.filter(pl.col("len") >= _HALVES)["place"], count)
