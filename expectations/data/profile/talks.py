"""Answers that stand at the wrong place of their own conversation: each of the last two fits another
question of it, and not its own."""

from typing import TYPE_CHECKING, NamedTuple

from expectations.data.batches import spread
from expectations.data.profile.alarms import LEAST_GROUP, LEAST_ROWS, Alarm, share_alarm
from expectations.data.profile.bags import bag
from expectations.data.profile.pairing import fit_of, of_length_one

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from scipy.sparse import csr_matrix

_PART = 1_000  # conversations, spread evenly
_WORDS = 12  # of four letters, of either answer
_THERE, _HERE = 0.5, 0.5  # of the usual fit; of the fit elsewhere
_SHARE = 0.015


class Talks(NamedTuple):
    """Conversations of at least two questions: their row numbers, the words of each text as vectors of
    length 1 (conversations x buckets), how many different words each has (texts x conversations; in the
    order of the fields), and which conversations have no more than two questions."""

    rows: "np.ndarray"
    asked: "csr_matrix"
    before: "csr_matrix"
    earlier: "csr_matrix"
    opening: "csr_matrix"
    said: "csr_matrix"
    replied: "csr_matrix"
    words: "np.ndarray"
    are_two: "np.ndarray"


def talks(sample: "pl.DataFrame") -> Talks | None:
    """Return the conversations of a part of a sample, None if there are too few.

    `sample` has `row`, `question`, `answer`, `before`, `replied`, `earlier` and `opening` of pairs (see
    `numbers.pairs`).
    """
    import numpy as np

    part = spread(sample.drop_nulls(["before", "replied"]), _PART)
    if len(part) < LEAST_ROWS / 2:
        return None
    names = ("question", "before", "earlier", "opening", "answer", "replied")
    bags = [bag(part[name].fill_null("")) for name in names]
    words = np.array([np.diff(text.indptr) for text in bags])
    are_two = (part["opening"] == part["before"]).to_numpy()
    asked, before, earlier, opening, said, replied = of_length_one(*bags)
    rows = part["row"].to_numpy()
    return Talks(rows, asked, before, earlier, opening, said, replied, words, are_two)


def out_of_place(found: Talks | None) -> list[Alarm]:
    """Return an alarm if the last two answers of conversations fit each other's questions, or earlier
    ones."""
    import numpy as np

    if found is None:
        return []
    asked, before, said, replied = found.asked, found.before, found.said, found.replied
    own, above = fit_of(asked, said), fit_of(before, replied)
    if not (above > 0).any():
        return []
    usual = float(np.median(above[above > 0]))
    others = replied[np.roll(np.arange(len(found.rows)), 1)]
    if usual < np.quantile(fit_of(before, others), 0.95):
        return []
    usual *= _THERE
    late = np.maximum.reduce(
        [fit_of(other, said) for other in (before, found.earlier, found.opening)]
    )
    early = fit_of(asked, replied)
    long = np.minimum(*found.words[4:]) >= _WORDS
    wrong = long & (late > usual) & (own < _HERE * late) & (early > usual)
    wrong &= above < _HERE * early
    if wrong.sum() < max(LEAST_GROUP, _SHARE * len(found.rows)):
        return []
    text = "have answers that fit another question of theirs, and not their own"
    rows, total = found.rows[wrong], len(found.rows)
    return [share_alarm("shuffled_pairs", rows, total, text, "both", "conversations")]
