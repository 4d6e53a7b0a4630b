"""Questions that several rows have, of which one is answered and another one is not: what a join on the
wrong key leaves. Several answers to one question are no fault; one that is about something else is."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from expectations.data.profile.alarms import LEAST_GROUP, LEAST_ROWS, Alarm, share_alarm
from expectations.data.profile.bags import Bags, bag
from expectations.data.profile.pairing import fit

if TYPE_CHECKING:
    import polars as pl

_SHARE = 0.02  # of all rows
_APART = 0.25  # of how answers fit their questions usually; what fits less is about something else


def unrelated(pairs: "pl.DataFrame", words: Bags, total: int) -> Iterator[Alarm]:
    """Yield an alarm for rows whose answer shares hardly a word with their question, where the answer of
    another row with this question shares about as many as usual.

    `pairs` (`row`, `context`, `question`, `answer`) are rows whose context others have too, of `total`
    rows; `words` are those of a sample of all rows, which say what is usual.
    """
    import numpy as np
    import polars as pl

    if total < LEAST_ROWS or pairs.is_empty():
        return
    given = fit(words.question, words.answer)
    if not (given > 0).any():
        return
    usual = float(np.median(given[given > 0]))
    own = fit(bag(pairs["question"]), bag(pairs["answer"]))
    each = pairs.select("row", "context", fit=pl.Series(own))
    others = pl.col("fit").max().over("context")
    stray = each.filter((pl.col("fit") < _APART * usual) & (others >= usual / 2))["row"].sort()
    if len(stray) >= max(LEAST_GROUP, _SHARE * total):
        text = "say nothing of their question, which another row answers"
        yield share_alarm("doubtful_masses", stray.to_numpy(), total, text, "both")
