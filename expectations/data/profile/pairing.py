"""Whether answers belong to their questions: the words that they share, against other pairings.

Nothing is said of datasets whose answers have no words of their questions by nature: labels, numbers,
scripts without spaces. An alarm takes another pairing that fits significantly better, or a dataset of
topics whose pairs fit no better than chance.
"""

from typing import TYPE_CHECKING

from expectations.data.batches import spread
from expectations.data.profile.alarms import LEAST_GROUP, LEAST_ROWS, Alarm, share_alarm
from expectations.data.profile.bags import Bags, bag, rare

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from scipy.sparse import csr_matrix

_SHIFTS = (-3, -2, -1, 1, 2, 3)  # rows
_FAR_SHIFTS = (-17, -15, -13, 13, 15, 17)  # as many rows that are no neighbours
_SIGNIFICANT = 6.0  # standard errors
_LEAST_SHARE = 0.05  # of rows whose answer stands beside them
_COMMON = 0.1  # a word that more texts have is no topic's
_MOST_COMPARED = 1_500  # pairs of which each question meets each answer; conversations
_BETWEEN = 0.25  # as many rows between strangers and the others, as a share of the strangers
_TELLING = 3  # words of a text that has a topic
_LATE = 0.05  # of the later answers, those that fit the question before
_EXCESS = 3.0  # times as many matches between unrelated pairs as words drawn by chance would have


def shuffled(rows: "np.ndarray", words: Bags) -> list[Alarm]:
    """Return an alarm if answers are shifted by rows, exchanged with neighbours or shuffled.

    `rows` are the numbers of the sampled rows, in order, whose words are `words`.
    """
    if len(rows) < LEAST_ROWS:
        return []
    question, answer = _weighted(words)
    alarm = _shifted(rows, question, answer) or _beside(rows, question, answer)
    alarm = alarm or _at_random(rows, question, answer, words)
    return [alarm] if alarm else []


def lagging(sample: "pl.DataFrame") -> list[Alarm]:
    """Return an alarm if answers within conversations stand one question too late.

    `sample` has `row`, `question`, `answer`, and of what was said before it `before` (the question),
    `replied` (what stands below that) and `earlier` (the question before that), null where there is
    none. An answer that came too late fits the question before its own, and so does the one above it.
    """
    import numpy as np

    later = sample.drop_nulls(["before", "earlier", "replied"])
    later = spread(later, _MOST_COMPARED)
    if len(later) < LEAST_ROWS / 2:
        return []
    names = ("question", "before", "earlier", "answer", "replied")
    sides = [bag(later[name]) for name in names]
    asked, before, earlier, said, replied = of_length_one(*sides)
    long = np.minimum.reduce([np.diff(side.indptr) for side in sides]) >= _TELLING
    own, late, there = fit_of(asked, said), fit_of(before, said), fit_of(before, replied)
    typical = np.median(there[there > 0]) if (there > 0).any() else 1.0
    wrong = long & (late >= typical) & (own < late / 2) & (there < late / 2)
    wrong &= fit_of(earlier, replied) > there
    if wrong.sum() < max(LEAST_GROUP, _LATE * len(later)):
        return []
    rows, of = later["row"].to_numpy()[wrong], "later answers of conversations"
    words = "fit the question before their own, as do the answers above them"
    return [share_alarm("shuffled_pairs", rows, len(later), words, "both", of)]


def strangers(words: Bags) -> "np.ndarray":
    """Return which rows have a long question and answer that share no word, where the others do.

    All False where others' words are no more than other pairs share.
    """
    import numpy as np

    question, answer = _weighted(words)
    given = fit_of(question, answer)
    random = fit_of(question, answer[np.random.default_rng(0).permutation(len(given))])
    long = (np.diff(words.question.indptr) >= 3) & (np.diff(words.answer.indptr) >= 12)
    others = given[long & (given > 0)]
    if not len(others) or np.median(others) < np.quantile(random, 0.95):
        return np.zeros(len(given), dtype=bool)
    typical = np.median(others)
    apart = long & (given < typical / 4)
    # Natural pairs share a little, some or much; of exchanged ones few are in between.
    between = long & (given >= typical / 4) & (given < typical / 2)
    return apart if between.sum() <= _BETWEEN * apart.sum() else np.zeros(len(given), dtype=bool)


def unknown_words(words: Bags) -> "np.ndarray":
    """Return the share of an answer's words that no other text of the sample has, 0 to 1."""
    import numpy as np

    seen = sum(np.asarray(side.sum(axis=0)).ravel() for side in (words.question, words.answer))
    return (words.answer @ (seen == 1)) / np.maximum(np.diff(words.answer.indptr), 1)


def fit(question: "csr_matrix", answer: "csr_matrix") -> "np.ndarray":
    """Return how many words each pair shares, the rare ones weighing more: cosines, 0 to 1."""
    return fit_of(*of_length_one(question, answer))


def _weighted(words: Bags) -> "tuple[csr_matrix, csr_matrix]":
    """Return both sides with rare words weighing more, of length 1, so that products are cosines."""
    question, answer = of_length_one(words.question, words.answer)
    return question, answer


def of_length_one(*texts: "csr_matrix") -> "list[csr_matrix]":
    """Return words with rare ones (among all of `texts`) weighing more, each text of length 1, so that
    products are cosines."""
    import numpy as np
    from scipy.sparse import diags

    weight = rare(*texts)
    sides = []
    for side in texts:
        weighted = side.multiply(weight).tocsr()
        length = np.sqrt(np.asarray(weighted.multiply(weighted).sum(axis=1)).ravel())
        sides.append(diags(1 / np.maximum(length, 1e-9)) @ weighted)
    return sides


def fit_of(question: "csr_matrix", answer: "csr_matrix") -> "np.ndarray":
    """Return the cosine of each pair of texts of length 1."""
    import numpy as np

    return np.asarray(question.multiply(answer).sum(axis=1)).ravel()


def _moved(
    rows: "np.ndarray", shift: int, question: "csr_matrix", answer: "csr_matrix"
) -> "np.ndarray":
    """Return how each question fits the answer `shift` rows on; NaN where that is not sampled."""
    import numpy as np

    place = np.minimum(np.searchsorted(rows, rows + shift), len(rows) - 1)
    there = rows[place] == rows + shift
    fit = np.full(len(rows), np.nan)
    fit[there] = fit_of(question[there], answer[place[there]])
    return fit


def _shifted(rows: "np.ndarray", question: "csr_matrix", answer: "csr_matrix") -> Alarm | None:
    import numpy as np

    given, best = fit_of(question, answer), None
    for shift in _SHIFTS:
        fit = _moved(rows, shift, question, answer)
        there = ~np.isnan(fit)
        if there.sum() < LEAST_ROWS / 2:
            continue
        gain = fit[there] - given[there]
        z = gain.mean() / max(gain.std() / np.sqrt(there.sum()), 1e-9)
        if z > _SIGNIFICANT and (best is None or gain.mean() > best[0]):
            best = gain.mean(), shift, fit[there].mean(), given[there].mean()
    if best is None:
        return None
    _, shift, there, here = best
    sentence = (
        f"the answers fit the question {abs(shift)} row{'s' * (abs(shift) > 1)} "
        f"{'before' if shift > 0 else 'after'} them, not their own: "
        f"word overlap {there:.3f} there, {here:.3f} here"
    )
    return _of_all(sentence, int(rows[abs(shift)]))


def _beside(rows: "np.ndarray", question: "csr_matrix", answer: "csr_matrix") -> Alarm | None:
    """Look for rows that share no word with their answer but many with that of a neighbour."""
    import numpy as np

    given = fit_of(question, answer)
    typical = float(np.median(given[given > 0])) if (given > 0).any() else 1.0
    stray = given < typical / 4

    def hits(shifts: tuple[int, ...]) -> "np.ndarray":
        fits = np.stack([_moved(rows, shift, question, answer) for shift in shifts])
        return stray & (np.nan_to_num(fits).max(axis=0) > typical)

    near, far = hits(_SHIFTS), hits(_FAR_SHIFTS)
    share, chance = near.mean(), far.mean()
    noise = np.sqrt((share + chance + 1 / len(rows)) / len(rows))
    if share - 2 * chance < _LEAST_SHARE or share - chance < _SIGNIFICANT * noise:
        return None
    words = "share no word with their question but many with that of a neighbouring row"
    return share_alarm("shuffled_pairs", rows[near], len(rows), words, "both")


def _at_random(
    rows: "np.ndarray", question: "csr_matrix", answer: "csr_matrix", words: Bags
) -> Alarm | None:
    """Look for a dataset of topics (unrelated pairs of one topic share several words) whose own
    pairs fit no better than any others."""
    import numpy as np

    generator = np.random.default_rng(0)
    given = fit_of(question, answer)
    random = fit_of(question, answer[generator.permutation(len(rows))])
    noise = np.sqrt((given.var() + random.var()) / len(rows))
    if given.mean() - random.mean() > 3 * noise or noise == 0:
        return None
    if np.median(np.diff(words.answer.indptr)) < 8 or _topics(words, generator) < _EXCESS:
        return None
    sentence = (
        f"the answers fit their questions no better than any other answers do (word overlap "
        f"{given.mean():.3f}, by chance {random.mean():.3f}), although the rows have topics"
    )
    return _of_all(sentence, int(rows[0]))


def _topics(words: Bags, generator: "np.random.Generator") -> float:
    """Return how many times as often as by chance a question and some answer share two rare words."""
    import numpy as np
    from scipy.sparse import csr_matrix

    count = words.question.shape[0]
    part = generator.permutation(count)[:_MOST_COMPARED]
    both = [words.question[part], words.answer[part]]
    seen = sum(np.asarray(side.sum(axis=0)).ravel() for side in both)
    columns = np.flatnonzero((seen > 1) & (seen <= _COMMON * 2 * len(part)))
    asked, said = (side[:, columns].tocsr() for side in both)

    def matches(left: csr_matrix) -> float:
        product = (left @ said.T).tocoo()
        return float(((product.data >= 2) & (product.row != product.col)).sum())

    drawn = csr_matrix(
        (asked.data, generator.permutation(asked.indices), asked.indptr), shape=asked.shape
    )
    return (matches(asked) + 1) / (matches(drawn) + 10)


def _of_all(sentence: str, row: int) -> Alarm:
    return Alarm(expectation="shuffled_pairs", value=1.0, sentence=sentence, row=row, quote="both")
