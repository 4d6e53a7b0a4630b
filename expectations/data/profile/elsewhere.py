"""Answers that belong to another row: they say nothing of their own question, and much of one that is not
answered either. A join that slipped for a part of the rows leaves such, near by or anywhere; of one that
took them from another dataset, the first half alone is to be seen."""

from typing import TYPE_CHECKING

from expectations.data.profile.alarms import LEAST_GROUP, LEAST_ROWS, Alarm, share_alarm
from expectations.data.profile.bags import Bags
from expectations.data.profile.pairing import fit_of, of_length_one

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import polars as pl
    from scipy.sparse import csr_matrix

    Told = Callable[[np.ndarray], bool]

_APART, _THERE = 0.25, 0.7  # of how answers fit their questions usually: here and there
_WORDS = (4, 12)  # of four letters, in a question and an answer that have a topic
_COMMON = 0.05  # share of texts with a word, from which it is no topic's
_SHARE = 0.015  # of rows, at least
_CHANCE = 4  # times as many as fit an answered question
_NOTHING = 0.15  # of the usual fit
_SILENT = 0.1  # share of answers to an only question that fit less
_MOST = 1_000  # answers that are held against questions


def elsewhere(rows: "np.ndarray", words: Bags) -> list[Alarm]:
    """Return an alarm if answers fit questions of other rows that are not answered in theirs.

    `rows` are the numbers of the sampled rows, whose words are `words`.
    """
    import numpy as np

    question, answer = of_length_one(words.question, words.answer)
    given = fit_of(question, answer)
    if len(rows) < LEAST_ROWS or not (given > 0).any():
        return []
    usual = float(np.median(given[given > 0]))
    long = _is_long(words)
    stray = np.flatnonzero(long & (given < _APART * usual))[:_MOST]
    answered = np.flatnonzero(long & (given >= usual / 2))
    if len(stray) < LEAST_GROUP:
        return []
    answered = answered[:: max(1, -(-len(answered) // len(stray)))][: len(stray)]
    telling = _telling(words)
    said = answer[stray][:, telling]
    there, chance = (
        _best(said, question[asked][:, telling]) > _THERE * usual for asked in (stray, answered)
    )
    if there.sum() < max(LEAST_GROUP, _SHARE * len(rows), _CHANCE * chance.sum()):
        return []
    text = "say nothing of their question and fit that of another row, which has such an answer as well"
    return [share_alarm("shuffled_pairs", rows[stray[there]], len(rows), text, "both")]


def silent(sample: "pl.DataFrame", words: Bags, told: "Told") -> list[Alarm]:
    """Return an alarm if answers say nothing of the only question before them, and that does not tell
    which do (`told` takes a boolean per row of `sample`, whose words are `words`)."""
    import numpy as np

    question, answer = of_length_one(words.question, words.answer)
    given = fit_of(question, answer)
    only = sample["before"].is_null().to_numpy() & _is_long(words)
    if not (given > 0).any() or only.sum() < LEAST_ROWS / 2:
        return []
    usual = float(np.median(given[given > 0]))
    chance = fit_of(question, answer[np.random.default_rng(0).permutation(len(given))])
    if usual < np.quantile(chance, 0.95):
        return []
    group = only & (given < _NOTHING * usual)
    share = group.sum() / only.sum()
    if not _SILENT <= share <= 1 / 2 or group.sum() < LEAST_GROUP or told(group):
        return []
    rows, of = sample["row"].to_numpy()[group], int(only.sum())
    text = "that follow on one question alone say nothing of it, where the others do"
    return [share_alarm("doubtful_masses", rows, of, text, "both")]


def _is_long(words: Bags) -> "np.ndarray":
    """Return which pairs have enough words on both sides."""
    import numpy as np

    sides = zip((words.question, words.answer), _WORDS, strict=True)
    long: np.ndarray = np.logical_and.reduce([np.diff(side.indptr) >= n for side, n in sides])
    return long


def _telling(words: Bags) -> "np.ndarray":
    """Return the words that few texts have, and more than one."""
    import numpy as np

    seen = sum(np.asarray(side.sum(axis=0)).ravel() for side in (words.question, words.answer))
    return np.flatnonzero((seen > 1) & (seen <= _COMMON * len(words.question.indptr)))


def _best(said: "csr_matrix", asked: "csr_matrix") -> "np.ndarray":
    """Return how well each of some answers fits that of some questions which it fits best."""
    import numpy as np

    if not asked.shape[0]:
        return np.zeros(said.shape[0])
    best: np.ndarray = (said @ asked.T).max(axis=1).toarray().ravel()
    return best
