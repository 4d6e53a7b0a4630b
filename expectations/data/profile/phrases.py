"""Answers that say hardly anything but what others say: a few sentences with slots, in which the words of
the question are put. So decline, ask back and grade those who do not answer.

No phrase is looked for. Of what people and models answer, a few words in a row are said by others, an
opening or a farewell; of what comes from a few frames, most are.
"""

from typing import TYPE_CHECKING

from expectations.data.profile.alarms import LEAST_GROUP
from expectations.data.profile.shapes import Group

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

_RUN = 4  # words in a row
_WORDS = (6, 50)  # words of an answer, at least, and of its beginning that is looked at
_SAID = 0.006  # share of different answers that say a run, from which it is a phrase of many
_COVERED, _USUAL = 0.4, 0.15  # share of the words in such runs; of the middle answer, at most
_SHARE = 0.04


def phrases(frame: "pl.DataFrame", words: "pl.DataFrame") -> Group:
    """Return the answers that are made of runs of words that many say: `frame` has `answer`, `words` is
    what `wording.words_of` returns of the answers without their code."""
    import numpy as np

    place, hashes = _beginnings(words)
    counts = np.bincount(place, minlength=len(frame))
    covered = np.bincount(place, weights=_in_phrases(place, hashes, frame), minlength=len(frame))
    share = covered / np.maximum(counts, 1)
    enough = counts >= _WORDS[0]
    group = enough & (share >= _COVERED) & ~frame["answer"].is_duplicated().to_numpy()
    # Where all comes from templates, these are the dataset's way.
    if not enough.any() or np.median(share[enough]) > _USUAL:
        group &= False
    text = "say hardly anything but a few sentences that others say, whatever is asked"
    return Group(text, _SHARE, group, "both")


def _beginnings(words: "pl.DataFrame") -> "tuple[np.ndarray, np.ndarray]":
    """Return place and hash of the first words of each text."""
    import numpy as np

    place, hashes = words["place"].to_numpy(), words["hash"].to_numpy()
    starts = np.flatnonzero(np.diff(place, prepend=-1))
    nth = np.arange(len(place)) - np.repeat(starts, np.diff(starts, append=len(place)))
    first = nth < _WORDS[1]
    return place[first].astype(np.int64), hashes[first]


def _in_phrases(place: "np.ndarray", hashes: "np.ndarray", frame: "pl.DataFrame") -> "np.ndarray":
    """Return which words stand in a run of words that many different answers say."""
    import numpy as np
    import polars as pl

    covered = np.zeros(len(place), dtype=bool)
    runs = max(0, len(hashes) - _RUN + 1)
    gram = np.zeros(runs, dtype=np.uint64)
    for offset in range(_RUN):  # wraps around at 64 bits, as a hash may
        gram = gram * np.uint64(0x9E3779B97F4A7C15) + hashes[offset : offset + runs]
    whole = np.flatnonzero(place[:runs] == place[_RUN - 1 :][:runs])
    once = frame["answer"].is_first_distinct().to_numpy()
    found = pl.DataFrame({"gram": gram[whole], "place": place[whole]})
    different = found.filter(pl.Series(once[place[whole]])).unique()
    counts = different["gram"].value_counts()
    least = max(LEAST_GROUP / 2, _SAID * len(frame))
    often = counts.filter(pl.col("count") >= least)["gram"].implode()
    begins = whole[found["gram"].is_in(often).to_numpy()]
    for offset in range(_RUN):
        covered[begins + offset] = True
    return covered
