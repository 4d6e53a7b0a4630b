"""One letter in the place of another: what a wrong keyboard, font or table of codes leaves. An answer has
too many of the one and hardly any of the other, which no subject explains."""

from typing import TYPE_CHECKING

from expectations.data.batches import spread
from expectations.data.profile.shapes import Group

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

_PART, _HEAD = 1_000, 1_000  # answers, spread evenly; characters of one
_LETTERS = 26
_LEAST = 150  # letters of an answer
_EXPECTED, _FEW = 6, 0.15  # of a letter in an answer of its length; of that, what is hardly any
_MANY, _TIMES = 5, 4  # of a letter in an answer, and times as many as is usual
_SHARE = 0.03


def keys(frame: "pl.DataFrame") -> Group:
    """Return the answers with one letter in the place of another: `frame` has `prose`, the answers
    without their code."""
    words, group = _exchanged(spread(frame, _PART)["prose"])
    if len(group) < len(frame):
        # A part first: hardly any set has such answers.
        rest = frame["prose"] if group.mean() >= _SHARE / 2 else frame["prose"].clear()
        words, group = _exchanged(rest.extend_constant(None, len(frame) - len(rest)))
    return Group(words, _SHARE, group, "answer")


def _exchanged(texts: "pl.Series") -> "tuple[str, np.ndarray]":
    """Return what most of the texts with too many of one letter and hardly any of another have, and which
    these are."""
    import numpy as np

    counts = _letters(texts)
    totals = counts.sum(axis=1)
    long = totals >= _LEAST
    if not long.any():
        return "", long
    expected = totals[:, None] * np.median(counts[long] / totals[long, None], axis=0)[None]
    few = long[:, None] & (expected >= _EXPECTED) & (counts <= _FEW * expected)
    many = long[:, None] & (counts >= _MANY) & (counts >= _TIMES * expected)
    pairs = many.T.astype(float) @ few.astype(float)
    there, lost = np.unravel_index(int(pairs.argmax()), pairs.shape)
    words = f"have the letter {chr(97 + there)!r} in the place of {chr(97 + lost)!r}"
    return words, many[:, there] & few[:, lost]


def _letters(texts: "pl.Series") -> "np.ndarray":
    """Return how often each text has each letter from a to z, texts x 26."""
    import numpy as np

    heads = texts.fill_null("").str.head(_HEAD).str.to_lowercase()
    rows = [np.frombuffer(text.encode("ascii", "ignore"), np.uint8) for text in heads]
    counts = [np.bincount(row, minlength=128)[97 : 97 + _LETTERS] for row in rows]
    return np.array(counts, dtype=float).reshape(len(counts), _LETTERS)
