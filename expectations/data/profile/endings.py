"""Words that end otherwise than those of the other answers: stems without their endings, words cut off or
brought into another form by a tool."""

from typing import TYPE_CHECKING

from expectations.data.profile.shapes import HEAD, Group

if TYPE_CHECKING:
    import polars as pl

_WORD = r"\p{Latin}{5,}"
_LEAST, _MOST = 25, 150  # words of an answer; with more, the mean is no surer
_FAR = 3.0  # deviations of an answer with 100 words
_SHARE = 0.05


def endings(frame: "pl.DataFrame") -> Group:
    """Return the answers whose words end with letters that seldom end one: `frame` has `prose`, the
    answers without their code."""
    import numpy as np
    import polars as pl

    words = pl.col("prose").str.head(HEAD).str.to_lowercase().str.extract_all(_WORD)
    flat = frame.select(word=words).with_row_index("place").explode("word").drop_nulls()
    last = flat.select("place", letter=pl.col("word").str.tail(1))
    cost = -(pl.len().over("letter") / max(1, len(last))).log()
    place, costs = last["place"].to_numpy(), last.select(cost).to_series().to_numpy()
    counts = np.bincount(place, minlength=len(frame))
    means = np.bincount(place, weights=costs, minlength=len(frame)) / np.maximum(counts, 1)
    long = counts >= _LEAST
    group = np.zeros(len(frame), dtype=bool)
    if long.any():
        middle = np.median(means[long])
        spread = 1.4826 * np.median(np.abs(means[long] - middle))
        sure = np.sqrt(np.minimum(counts, _MOST) / 100)
        group = long & ((means - middle) * sure > _FAR * max(spread, 1e-3))
    words_of_it = "have words that end otherwise than those of the others"
    return Group(words_of_it, _SHARE, group, "answer")
