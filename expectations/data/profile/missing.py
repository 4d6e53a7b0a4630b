"""Answers without the one or two words that all others say most, though they say the rest of these as
often as usual: articles lost by a translator, a word taken out by a filter.

Texts of another kind (lists, tables, other languages) lack all of these words, not two of them.
"""

from itertools import combinations
from typing import TYPE_CHECKING

from expectations.data.profile.shapes import Group, frequencies
from expectations.data.profile.wording import is_prose

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

_COMMON, _FIRST = 20, 6  # words that the set says most; of these, the ones that are missed
_EXPECTED = 9  # times that an answer of this length would say two of them
_FEW, _REST = 0.15, 0.7  # of what is expected: of the two at most, of the others at least
_SHARE = 0.05


def missing(frame: "pl.DataFrame", words: "pl.DataFrame") -> Group:
    """Return the answers that lack the two words that most of such lack: `frame` has `prose`, the answers
    without their code, `words` is what `wording.words_of` returns of it."""
    import numpy as np

    count = len(frame)
    common, said, expected = _counts(words, count)
    best, lost = np.zeros(count, dtype=bool), ("", "")
    for one, other in combinations(range(min(_FIRST, len(common))), 2):
        both, usual = said[one] + said[other], expected[one] + expected[other]
        rest = said.sum(axis=0) - both
        as_usual = rest > _REST * (expected.sum(axis=0) - usual)
        group = (usual >= _EXPECTED) & (both < _FEW * usual) & as_usual
        if group.sum() > best.sum():
            best, lost = group, (common[one], common[other])
    if best.mean() >= _SHARE:  # only then is it worth its time
        best = best & is_prose(frame)
    text = f"hardly ever say {lost[0]!r} or {lost[1]!r}, which the others say all the time"
    return Group(text, _SHARE, best, "answer")


def _counts(words: "pl.DataFrame", count: int) -> "tuple[list[str], np.ndarray, np.ndarray]":
    """Return the most frequent words, how often each answer says them, and how often one of its length
    does (words x answers)."""
    import numpy as np
    import polars as pl

    top = frequencies(words["hash"], _COMMON)
    if top.is_empty():
        return [], np.zeros((0, count)), np.zeros((0, count))
    top = top.join(words.select("hash", "word").unique("hash"), on="hash", maintain_order="left")
    index = top.select("hash", column=pl.int_range(pl.len()))
    found = words.select("place", "hash").join(index, on="hash")
    cells = found["column"].to_numpy() * count + found["place"].to_numpy()
    said = np.bincount(cells, minlength=len(top) * count).reshape(len(top), count)
    lengths = np.bincount(words["place"].to_numpy(), minlength=count)
    rates = top["count"].to_numpy() / max(1, len(words))
    return top["word"].to_list(), said.astype(float), rates[:, None] * lengths[None]
