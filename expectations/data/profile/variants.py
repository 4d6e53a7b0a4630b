"""Answers that write one way what the others of the set write another way: numbers with a comma for the
point, whole ones with ".0" behind them, words without their apostrophe or with a capital each.

A locale, a column that became a float and a filter of quotation marks do so, whatever is said.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from expectations.data.profile.shapes import HEAD, Group, frame_mask

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

_BEFORE, _BEHIND = r"(?:^|[\s€$£(≈~])", r"(?:[\s%.;:)°]|$)"
_WITH_POINT = rf"{_BEFORE}(?:[1-9]\d{{0,2}}(?:,\d{{3}})+|\d+\.\d+){_BEHIND}"
# 12,5 and 1.200 and 1.200,50, but neither 12.5 nor 0.125.
_WITH_COMMA = rf"{_BEFORE}(?:[1-9]\d{{0,2}}(?:\.\d{{3}})+(?:,\d+)?|\d+,\d{{1,2}}){_BEHIND}"
_FLOAT, _FLOATS = r"(?:^|[^\d.,])\d+\.0(?:[^.\d]|$)", 2  # in one answer
_DECIMAL = r"\d\.(?:[1-9]|0\d)"
_FORMULA = r"(?:^|[^\\\p{L}{])\p{Ll}{2,}\{[^{}\n]+\}"  # frac{1}{2}
_RULE = r"(?m)^[ \t]*:?-{3,}:?(?:[ \t]*[,;\t][ \t]*:?-{3,}:?)+[ \t]*$"  # below the head of a table
_CONTRACTED = r"\p{L}+['’](?:t|re|ve|ll|d|m)\b"
_CAPITALS = (12, 8)  # words with one within sentences, and how many times as many as without
_CONTRACTIONS = (3, 1.0)  # answers with the apostrophe, and at most as many times as many without


def variants(frame: "pl.DataFrame") -> Iterator[Group]:
    """Yield groups of answers: `frame` has `prose`, the answers without their code."""
    import polars as pl

    text = pl.col("prose")
    found = frame.select(
        point=text.str.contains(_WITH_POINT),
        comma=text.str.contains(_WITH_COMMA),
        # What is measured has tenths other than none.
        floats=(text.str.count_matches(_FLOAT) >= _FLOATS)
        & (text.str.count_matches(_FLOAT) > text.str.count_matches(_DECIMAL)),
    )
    comma, floats = found["comma"].to_numpy(), found["floats"].to_numpy()
    if found["point"].sum() < comma.sum():
        comma = comma & False
    words = "write numbers with a comma where the others have a point"
    yield Group(words, 0.03, comma, "answer")
    yield Group('have ".0" behind whole numbers', 0.02, floats, "answer")
    words = "write words without the apostrophe that the others have in them"
    yield Group(words, 0.04, _without_apostrophe(frame), "answer")
    inner = frame.select(
        upper=text.str.count_matches(r"[\p{Ll},] \p{Lu}\p{Ll}+"),
        lower=text.str.count_matches(r"[\p{Ll},] \p{Ll}{2,}"),
    )
    fewest, times = _CAPITALS
    titles = (inner["upper"] >= fewest) & (inner["upper"] >= times * inner["lower"])
    words = "begin nearly each word with a capital"
    yield Group(words, 0.03, titles.to_numpy(), "answer")


def without_marks(frame: "pl.DataFrame") -> Iterator[Group]:
    """Yield the answers with formulas that lost their backslashes, and with tables that lost their bars,
    which no question asks for."""
    import polars as pl

    text = pl.col("prose")
    bare = text.str.contains(_FORMULA) & ~text.str.contains("\\", literal=True)
    for words, lost in (
        ("have commands of formulas without a backslash", bare),
        ("have tables without their bars", text.str.contains(_RULE)),
    ):
        yield Group(words, 0.03, frame.select(lost).to_series().to_numpy(), "answer")


def _without_apostrophe(frame: "pl.DataFrame") -> "np.ndarray":
    """Return which answers have a word that is a contraction elsewhere and no word of its own, and have
    none with its apostrophe."""
    import polars as pl

    text = frame.select(text=pl.col("prose").str.head(HEAD).str.to_lowercase()).with_row_index(
        "place"
    )
    contracted = (
        text.select("place", word=pl.col("text").str.extract_all(_CONTRACTED))
        .explode("word")
        .drop_nulls()
        .with_columns(pl.col("word").str.replace_all(r"['’]", ""))
        .unique()
    )
    bare = text.select("place", word=pl.col("text").str.extract_all(r"\p{L}{4,}")).explode("word")
    counts = contracted["word"].value_counts(name="contracted")
    bare = bare.unique().join(counts, on="word").with_columns(bare=pl.len().over("word"))
    fewest, most = _CONTRACTIONS
    # "Were" and "well" are words without an apostrophe as well: those are said more often.
    lost = bare.filter(
        (pl.col("contracted") >= fewest) & (pl.col("bare") <= most * pl.col("contracted"))
    )
    lost = lost.join(contracted, on="place", how="anti")
    return frame_mask(lost["place"], len(frame))
