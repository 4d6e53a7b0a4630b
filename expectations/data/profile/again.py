"""What many answers have in common word by word: the whole answer, a sentence, a label, a web address."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from expectations.data.profile.alarms import LEAST_GROUP, Alarm, Expectation, Quote, share_alarm
from expectations.data.profile.averages import median
from expectations.data.profile.shapes import frequencies

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    Told = Callable[[np.ndarray], bool]

MOST = 0.9  # of what nearly all answers do it is a dataset's way
_CANNED = (0.03, 0.25)  # share of one answer that is doubtful, and implausible
_SENTENCE = 0.2  # share of answers that begin or end with one sentence
_SHARED = {  # least share of different answers, and what these have in common
    "label": (0.1, "begin with one and the same label, whatever is asked"),
    "last_address": (0.05, "end with one and the same web address, whatever is asked"),
}
_LABELS = 4  # words; of shorter answers, many are the same in a sound dataset
_AGAIN, _OFTEN = (0.04, 0.3), 5  # share of answers that are given so often, where most are once


def canned(frame: "pl.DataFrame") -> Iterator[Alarm]:
    """Yield an alarm for each answer that many rows have, where answers are no labels."""
    import numpy as np
    import polars as pl

    counts = frequencies(frame["answer"], 5)
    total = len(frame)
    for answer, count in counts.rows():
        others = frame.filter(pl.col("answer") != answer)
        if count < max(LEAST_GROUP, _CANNED[0] * total) or len(others) < LEAST_GROUP:
            return
        long = np.expm1(median(others["answer_chars"])) / 6 >= _LABELS
        if not long or others["answer"].n_unique() < 0.5 * len(others):
            return
        rows = frame.filter(pl.col("answer") == answer)["row"].to_numpy()
        is_much = count >= _CANNED[1] * total
        expectation: Expectation = "implausible_masses" if is_much else "doubtful_masses"
        yield share_alarm(expectation, rows, total, "are one and the same")


def given_again(frame: "pl.DataFrame") -> Iterator[Alarm]:
    """Yield an alarm for a few answers that are each given again and again, where nearly all are given
    once and are no labels."""
    import numpy as np
    import polars as pl

    counted = frame.select("row", "answer_chars", count=pl.len().over("answer"))
    often, once = counted.filter(pl.col("count") >= _OFTEN), counted.filter(pl.col("count") == 1)
    least, most = _AGAIN
    if not max(LEAST_GROUP, least * len(frame)) <= len(often) <= most * len(frame):
        return
    long = np.expm1(median(once["answer_chars"])) / 6 >= _LABELS
    if long and len(once) + len(often) >= MOST * len(frame):
        words = "are a few that are given again and again, where nearly all are given once"
        yield share_alarm("doubtful_masses", often["row"].to_numpy(), len(frame), words, "both")


def same_sentences(frame: "pl.DataFrame") -> Iterator[Alarm]:
    """Yield an alarm for a sentence that a good part of different answers begins or ends with."""
    import polars as pl

    different = frame.unique("answer", keep="first", maintain_order=True)
    for name, words in (("first_sentence", "begin"), ("last_sentence", "end")):
        counts = frequencies(different[name], 1)
        if counts.is_empty() or not _SENTENCE <= counts["count"][0] / len(frame) <= MOST:
            continue
        rows = different.filter(pl.col(name) == counts[name][0])["row"].to_numpy()
        quote: Quote = "answer" if words == "begin" else "end"
        yield share_alarm(
            "doubtful_masses", rows, len(frame), f"{words} with one and the same sentence", quote
        )


def same_ends(frame: "pl.DataFrame", told: "Told") -> Iterator[Alarm]:
    """Yield an alarm for a label or an address that a good part of different answers has."""
    different = frame.unique("answer", keep="first", maintain_order=True)
    for name, (least, words) in _SHARED.items():
        counts = frequencies(different[name], 1)
        if counts.is_empty() or counts["count"][0] < max(LEAST_GROUP, least * len(frame)):
            continue
        group = (frame[name] == counts[name][0]).fill_null(False)
        if group.sum() > MOST * len(frame) or told(group.to_numpy()):
            continue
        quote: Quote = "answer" if name == "label" else "end"
        rows = frame["row"].filter(group).to_numpy()
        yield share_alarm("doubtful_masses", rows, len(frame), words, quote)
