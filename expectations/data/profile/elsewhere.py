"""Answers that belong to another row: they say nothing of their own question, and much of one that is not
answered either. A join that slipped for a part of the rows leaves such, near by or anywhere."""

from typing import TYPE_CHECKING

from expectations.data.profile.alarms import LEAST_GROUP, LEAST_ROWS, Alarm
from expectations.data.profile.bags import Bags
from expectations.data.profile.pairing import fit, of_length_one

if TYPE_CHECKING:
    import numpy as np

_APART, _THERE = 0.25, 0.7  # of how answers fit their questions usually: here and there
_WORDS = (4, 12)  # of four letters, in a question and an answer that have a topic
_COMMON = 0.05  # share of texts with a word, from which it is no topic's
_SHARE, _CHANCE = (
    0.015,
    4,
)  # least share of rows; how many times as many as fit an answered question
_MOST = 1_000  # answers that are held against questions


def elsewhere(rows: "np.ndarray", words: Bags) -> list[Alarm]:
    """Return an alarm if answers fit questions of other rows that are not answered in theirs.

    `rows` are the numbers of the sampled rows, whose words are `words`.
    """
    import numpy as np

    given = fit(words.question, words.answer)
    if len(rows) < LEAST_ROWS or not (given > 0).any():
        return []
    usual = float(np.median(given[given > 0]))
    sides = (words.question, words.answer)
    long = np.minimum.reduce(
        [np.diff(side.indptr) >= least for side, least in zip(sides, _WORDS, strict=True)]
    )
    stray = np.flatnonzero(long & (given < _APART * usual))[:_MOST]
    answered = np.flatnonzero(long & (given >= usual / 2))
    if len(stray) < LEAST_GROUP:
        return []
    answered = answered[:: max(1, -(-len(answered) // len(stray)))][: len(stray)]
    there, chance = (_best(words, stray, asked) > _THERE * usual for asked in (stray, answered))
    count = int(there.sum())
    if count < max(LEAST_GROUP, _SHARE * len(rows), _CHANCE * chance.sum()):
        return []
    share, first = count / len(rows), int(rows[stray[there]][0])
    sentence = (
        f"{share:.1%} of the answers ({count:,} of {len(rows):,}) say nothing of their question and fit "
        f"that of another row, which has such an answer as well"
    )
    return [
        Alarm(expectation="shuffled_pairs", value=share, sentence=sentence, row=first, quote="both")
    ]


def _best(words: Bags, said: "np.ndarray", asked: "np.ndarray") -> "np.ndarray":
    """Return how well each of some answers fits that of some questions which it fits best, by the words
    that few texts have."""
    import numpy as np

    if not len(asked):
        return np.zeros(len(said))
    question, answer = of_length_one(words.question, words.answer)
    seen = sum(np.asarray(side.sum(axis=0)).ravel() for side in (words.question, words.answer))
    telling = np.flatnonzero((seen > 1) & (seen <= _COMMON * len(words.question.indptr)))
    fits = answer[said][:, telling] @ question[asked][:, telling].T
    best: np.ndarray = fits.max(axis=1).toarray().ravel()
    return best
