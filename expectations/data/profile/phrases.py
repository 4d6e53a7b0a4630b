"""Answers that say hardly anything but what others say: a few sentences with slots, in which the words of
the question are put. So decline, ask back and grade those who do not answer.

No phrase is looked for. Of what people and models answer, a few words in a row are said by others, an
opening or a farewell; of what comes from a few frames, most are.
"""

from typing import TYPE_CHECKING

from expectations.data.profile.alarms import LEAST_GROUP
from expectations.data.profile.shapes import Group
from expectations.data.profile.wording import runs_of

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

    words = _beginnings(words)
    place = words["place"].to_numpy()
    counts = np.bincount(place, minlength=len(frame))
    covered = np.bincount(place, weights=_in_phrases(words, frame), minlength=len(frame))
    share = covered / np.maximum(counts, 1)
    enough = counts >= _WORDS[0]
    group = enough & (share >= _COVERED)
    # Where all comes from templates, these are the dataset's way.
    if not enough.any() or np.median(share[enough]) > _USUAL:
        group &= False
    text = "say hardly anything but a few sentences that others say, whatever is asked"
    return Group(text, _SHARE, group, "both")


def _beginnings(words: "pl.DataFrame") -> "pl.DataFrame":
    """Return the first words of each text."""
    import numpy as np
    import polars as pl

    place = words["place"].to_numpy()
    starts = np.flatnonzero(np.diff(place.astype(np.int64), prepend=-1))
    nth = np.arange(len(place)) - np.repeat(starts, np.diff(starts, append=len(place)))
    return words.select("place", "hash").filter(pl.Series(nth < _WORDS[1]))


def _in_phrases(words: "pl.DataFrame", frame: "pl.DataFrame") -> "np.ndarray":
    """Return which words stand in a run of words that many different answers say."""
    import numpy as np
    import polars as pl

    place, starts, runs = runs_of(words, _RUN)
    once = frame["answer"].is_first_distinct().to_numpy()
    found = pl.DataFrame({"run": runs, "place": place})
    different = found.filter(pl.Series(once[place])).unique()
    counts = different["run"].value_counts()
    least = max(LEAST_GROUP / 2, _SAID * len(frame))
    often = counts.filter(pl.col("count") >= least)["run"].implode()
    begins = starts[found["run"].is_in(often).to_numpy()]
    covered = np.zeros(len(words), dtype=bool)
    for offset in range(_RUN):
        covered[begins + offset] = True
    return covered
