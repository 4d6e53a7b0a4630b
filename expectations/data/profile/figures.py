"""Numbers that answers to unlike questions have in common, and years that have not come: a default in the
place of a missing date, an order or a case that one template names, a shift of dates."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from expectations.data.profile.shapes import HEAD, Group, frame_mask, frequencies

if TYPE_CHECKING:
    import polars as pl

_ADDRESS = r"https?://\S+"
# Dates, times, versions, amounts; of fewer characters many are said by chance.
_FIGURE = r"\d[\d.,:/-]{5,}\d"
_SAME = 0.03  # share of answers
# Numbers of four digits that are no years.
_AMOUNT = r"[$€£=×*+]\s*\d[\d.,]*|\d[\d.,]*\s*(?:[$€£%=×*+]|dollars|euros|pounds)"
_YEAR = r"\b(?:1[5-9]|2[0-9])\d\d\b"
_NEXT_DECADES = 2040  # fixed, so that a verdict does not depend on the day
_FUTURE = 0.03


def figures(frame: "pl.DataFrame") -> Iterator[Group]:
    """Yield groups of answers: `frame` has `answer` and `prose`, the answers without their code."""
    import polars as pl

    heads = pl.col("prose").str.replace_all(_ADDRESS, " ").str.head(HEAD)
    said = frame.select("answer", text=heads).with_row_index("place")
    numbers = (
        said.select("place", "answer", figure=pl.col("text").str.extract_all(_FIGURE))
        .explode("figure")
        .drop_nulls()
        .unique(["place", "figure"])
    )
    different = numbers.unique(["answer", "figure"])
    top = frequencies(different["figure"], 1)
    number = top["figure"][0] if len(top) else ""
    places = numbers.filter(pl.col("figure") == number)["place"]
    words = f"say one and the same number or date ({number}), whatever is asked"
    yield Group(words, _SAME, frame_mask(places, len(frame)), "answer")

    years = said.select(
        pl.col("text")
        .str.replace_all(_AMOUNT, " ")
        .str.extract_all(_YEAR)
        .list.eval(pl.element().cast(pl.Int32))
    )
    late = (years["text"].list.min() >= _NEXT_DECADES).fill_null(False)
    words = "name years that are all far in the future"
    yield Group(words, _FUTURE, late.to_numpy(), "answer")
