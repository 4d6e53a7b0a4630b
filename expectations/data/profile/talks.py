"""Answers that stand at the wrong place of their own conversation: each of the last two fits another
question of it, and not its own."""

from typing import TYPE_CHECKING

from expectations.data.batches import spread
from expectations.data.profile.alarms import LEAST_GROUP, LEAST_ROWS, Alarm, share_alarm
from expectations.data.profile.bags import bag
from expectations.data.profile.pairing import fit_of, of_length_one

if TYPE_CHECKING:
    import polars as pl

_PART = 1_000  # conversations, spread evenly
_WORDS = 12  # of four letters, of either answer
_THERE, _HERE = 0.5, 0.5  # of the usual fit; of the fit elsewhere
_SHARE = 0.015


def out_of_place(sample: "pl.DataFrame") -> list[Alarm]:
    """Return an alarm if the last two answers of conversations fit each other's questions, or earlier
    ones.

    `sample` has `row`, `question`, `answer`, `before`, `replied`, `earlier` and `opening` of pairs (see
    `numbers.pairs`).
    """
    import numpy as np

    talks = sample.drop_nulls(["before", "replied"])
    talks = spread(talks, _PART)
    if len(talks) < LEAST_ROWS / 2:
        return []
    names = ("question", "before", "earlier", "opening", "answer", "replied")
    bags = [bag(talks[name].fill_null("")) for name in names]
    asked, before, earlier, opening, said, replied = of_length_one(*bags)
    own, above = fit_of(asked, said), fit_of(before, replied)
    if not (above > 0).any():
        return []
    usual = float(np.median(above[above > 0]))
    if usual < np.quantile(fit_of(before, replied[np.roll(np.arange(len(talks)), 1)]), 0.95):
        return []
    usual *= _THERE
    late = np.maximum.reduce([fit_of(other, said) for other in (before, earlier, opening)])
    early = fit_of(asked, replied)
    long = np.minimum(np.diff(bags[4].indptr), np.diff(bags[5].indptr)) >= _WORDS
    wrong = long & (late > usual) & (own < _HERE * late) & (early > usual)
    wrong &= above < _HERE * early
    if wrong.sum() < max(LEAST_GROUP, _SHARE * len(talks)):
        return []
    rows = talks["row"].to_numpy()[wrong]
    words = "have answers that fit another question of theirs, and not their own"
    return [share_alarm("shuffled_pairs", rows, len(talks), words, "both", "conversations")]
