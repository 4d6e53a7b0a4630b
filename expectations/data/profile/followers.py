"""Common words that are always followed by one and the same word, which in the other answers seldom
follows them: what someone put behind each "is" and each "can" (a "not", say), or a tool behind each word
of a kind.
"""

from typing import TYPE_CHECKING

from expectations.data.profile.shapes import Group, frame_mask, frequencies

if TYPE_CHECKING:
    import polars as pl

_PART = 1_500  # answers that are looked at first, spread evenly
_COMMON = 25  # words that the set says most
_TIMES, _ALWAYS = 3, 0.8  # of a common word in one answer; share of these that the word follows
_SELDOM = 0.4  # of the answers with the common word as often, at most, say both at all
_SHARE = 0.05


def followers(words: "pl.DataFrame", count: int) -> Group:
    """Return which of `count` answers have the word that follows so in most: `words` is what
    `wording.words_of` returns."""
    import polars as pl

    step = max(1, -(-count // _PART))
    after, places = _followed(words.filter(pl.col("place") % step == 0))
    # A part first: hardly any set has such answers.
    if step > 1 and len(places) >= _SHARE / 2 * count / step:
        after, places = _followed(words)
    if after is None or len(places) < _SHARE * count:
        return Group("", _SHARE, frame_mask(places.clear(), count), "answer")
    (word,) = frequencies(words.filter(pl.col("hash") == after)["word"], 1)["word"]
    text = f"say {word!r} behind each of some common words, where the others hardly ever do"
    return Group(text, _SHARE, frame_mask(places, count), "answer")


def _followed(words: "pl.DataFrame") -> "tuple[int | None, pl.Series]":
    """Return the hash of the word that most answers say always behind a common one, where others seldom
    do, and the places of these answers."""
    import polars as pl

    pairs = _pairs(words)
    often = pairs.filter(pl.col("said") >= _TIMES)
    usual = often.group_by("word").agg(answers=pl.col("place").n_unique())
    both = often.group_by("word", "after").agg(both=pl.len()).join(usual, on="word")
    seldom = both.filter(pl.col("both") <= _SELDOM * pl.col("answers"))
    is_always = (pl.col("times") >= _TIMES) & (pl.col("times") >= _ALWAYS * pl.col("said"))
    always = often.filter(is_always).join(seldom, on=["word", "after"], how="semi")
    each = always.select("place", "after").unique()
    most = frequencies(each["after"], 1)
    if most.is_empty():
        return None, each["place"]
    after = most["after"][0]
    return after, each.filter(pl.col("after") == after)["place"]


def _pairs(words: "pl.DataFrame") -> "pl.DataFrame":
    """Return each common `word` of an answer (`place`) and the word `after` it, as hashes: how many
    `times` one follows the other there, and how often the word is `said`."""
    import numpy as np
    import polars as pl

    place, hashes = words["place"].to_numpy(), words["hash"].to_numpy()
    common = frequencies(words["hash"], _COMMON)["hash"].to_numpy()
    at = np.flatnonzero(np.isin(hashes[:-1], common) & (place[1:] == place[:-1]))
    found = pl.DataFrame({"place": place[at], "word": hashes[at], "after": hashes[at + 1]})
    each = found.group_by("place", "word", "after").agg(times=pl.len())
    return each.with_columns(said=pl.col("times").sum().over("place", "word"))
