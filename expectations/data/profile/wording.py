"""What the words of answers have in common, whatever they say: eight in a row, each of them twice, none
of those that all texts are made of, no vowels."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from expectations.data.profile.shapes import HEAD, Group, frequencies
from expectations.data.similarity import FACTOR

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

_SHARED_WORDS = 8  # in a row, which many answers say
_SHARED, _MOST_SHARED = 0.06, 0.4  # shares of the answers; what more say is their way
_AS_OFTEN, _TOGETHER = 0.25, 0.8  # what is said so often besides is said by these, or of templates
_COMMON, _COMMON_LEFT = 40, 0.4  # words that the set says most; of their usual share, what is few
_VOWELS = 0.22  # of the letters; of no language in Latin letters it is less than 0.33
_TWICE = 0.25  # of the words that follow themselves
_WORDS = 20  # an answer of fewer is not looked at for shares of words


def wording(frame: "pl.DataFrame", flat: "pl.DataFrame") -> Iterator[Group]:
    """Yield the answers that say the same eight words, miss the words or the letters that all texts
    have, or say each word twice: `flat` are the words of `frame`'s `prose` (see `words_of`)."""
    import numpy as np
    import polars as pl

    place, hashes = flat["place"].to_numpy(), flat["hash"].to_numpy()
    counts = np.bincount(place, minlength=len(frame))
    enough = counts >= _WORDS
    first = ~frame["answer"].is_duplicated().to_numpy()
    yield Group("say the same eight words", _SHARED, sharing(first, place, hashes), "answer")

    again = np.zeros(len(place), dtype=bool)
    again[1:] = (hashes[1:] == hashes[:-1]) & (place[1:] == place[:-1])
    twice = _mean(place, again, counts) >= _TWICE
    yield Group("say most words twice", 0.03, twice & enough, "answer")

    common = frequencies(flat["word"], _COMMON)["word"]
    share = _mean(place, flat["word"].is_in(common.implode()).to_numpy(), counts)
    usual = float(np.median(share[enough])) if enough.any() else 0.0
    few = enough & (share < _COMMON_LEFT * usual)
    yield Group("lack the words that all others are made of", 0.06, few & is_prose(frame), "answer")

    letters = frame.select(
        vowels=pl.col("prose").str.count_matches("(?i)[aeiouyà-æè-ïò-öù-ý]"),
        latin=pl.col("prose").str.count_matches(r"\p{Latin}").clip(1),
    )
    bare = (letters["vowels"] / letters["latin"] < _VOWELS).to_numpy()
    yield Group("have lost vowels", 0.04, bare & enough & is_prose(frame), "answer")


def words_of(texts: "pl.Series") -> "pl.DataFrame":
    """Return the words of the heads of texts in their order: `place` of the text, `word`, `hash`."""
    import polars as pl

    heads = pl.col(texts.name).str.head(HEAD).str.to_lowercase()
    words = texts.to_frame().select(word=heads.str.extract_all(r"[\p{L}\p{N}]+"))
    flat = words.with_row_index("place").explode("word").drop_nulls()
    return flat.with_columns(hash=pl.col("word").hash())


def runs_of(words: "pl.DataFrame", length: int) -> "tuple[np.ndarray, np.ndarray, np.ndarray]":
    """Return of each run of so many words within one text: the place of the text, the number of its first
    word among all, and a hash."""
    import numpy as np

    place, hashes = words["place"].to_numpy().astype(np.int64), words["hash"].to_numpy()
    count = max(0, len(hashes) - length + 1)
    runs = np.zeros(count, dtype=np.uint64)
    for offset in range(length):  # wraps around at 64 bits, as a hash may
        runs = runs * np.uint64(FACTOR) + hashes[offset : offset + count]
    starts = np.flatnonzero(place[:count] == place[length - 1 :][:count])
    return place[starts], starts, runs[starts]


def sharing(
    first: "np.ndarray",
    place: "np.ndarray",
    hashes: "np.ndarray",
    run: int = _SHARED_WORDS,
    most: float = _MOST_SHARED,
) -> "np.ndarray":
    """Return which texts say the `run` words in a row that most different texts say; none where others
    are said nearly as often, as in a dataset made from templates.

    `first` tells of each text whether there is no other like it, `place` and `hashes` are of each word
    the number of its text and its hash; if a share of more than `most` says them, that is their way.
    """
    import numpy as np
    import polars as pl

    from expectations.data.similarity import Words, ngrams

    said = np.zeros(len(first), dtype=bool)
    grams = ngrams(Words(hashes, place, np.zeros(len(place), bool)), [run])
    if run not in grams:
        return said
    gram, owner = grams[run]
    found = pl.DataFrame({"gram": gram, "owner": owner}).unique()
    different = found.filter(pl.Series(first[found["owner"].to_numpy()]))
    counts = different["gram"].value_counts()
    if counts.is_empty():
        return said
    first_gram = frequencies(different["gram"], 1)
    frequent = counts.filter(pl.col("count") >= first_gram["count"][0] * _AS_OFTEN)["gram"]
    said[found.filter(pl.col("gram") == first_gram["gram"][0])["owner"].to_numpy()] = True
    if said.mean() > most:
        return said & False
    # Where other answers share others nearly as often, the dataset is made from templates.
    others = found.filter(pl.col("gram").is_in(frequent.implode()))
    inside = pl.Series(said[others["owner"].to_numpy()])
    within = others.with_columns(inside=inside).group_by("gram").agg(pl.col("inside").mean())
    is_of_templates = bool((within["inside"] < _TOGETHER).any())
    return said & (not is_of_templates)


def _mean(place: "np.ndarray", values: "np.ndarray", counts: "np.ndarray") -> "np.ndarray":
    """Return the mean of the values of each place's words."""
    import numpy as np

    sums = np.bincount(place, weights=values.astype(np.float64), minlength=len(counts))
    means: np.ndarray = sums / np.maximum(counts, 1)
    return means


def is_prose(frame: "pl.DataFrame") -> "np.ndarray":
    """Return which answers are of Latin letters and spaces in the first place."""
    import polars as pl

    text = pl.col("prose")
    letters = text.str.count_matches(r"[\p{Latin} ]") >= 0.85 * text.str.len_chars()
    return frame.select(letters).to_series().to_numpy()
