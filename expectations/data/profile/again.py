"""What many answers have in common word by word: the whole answer, a sentence, a label, a web address."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from expectations.data.profile.alarms import LEAST_GROUP, Alarm, Expectation, Quote, share_alarm
from expectations.data.profile.averages import median
from expectations.data.profile.shapes import frequencies
from expectations.data.profile.table import Table, is_first
from expectations.data.tables import occurrences

if TYPE_CHECKING:
    import numpy as np

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


def canned(frame: Table) -> Iterator[Alarm]:
    """Yield an alarm for each answer that many rows have, where answers are no labels."""
    import numpy as np

    counts = frequencies(frame["answer"], 5)
    total = len(frame)
    for answer, count in counts.rows():
        others = frame["answer"] != answer
        few = total - count < LEAST_GROUP
        if count < max(LEAST_GROUP, _CANNED[0] * total) or few:
            return
        long = np.expm1(median(frame["answer_chars"].filter(others))) / 6 >= _LABELS
        different = int(is_first(frame["answer"]).sum()) - 1  # of the others
        if not long or different < 0.5 * (total - count):
            return
        rows = frame["row"].filter(~others).to_numpy()
        is_much = count >= _CANNED[1] * total
        expectation: Expectation = "implausible_masses" if is_much else "doubtful_masses"
        yield share_alarm(expectation, rows, total, "are one and the same")


def given_again(frame: Table) -> Iterator[Alarm]:
    """Yield an alarm for a few answers that are each given again and again, where nearly all are given
    once and are no labels."""
    import numpy as np

    times = occurrences(frame["answer"].to_numpy())
    often, once = frame["row"].filter(times >= _OFTEN), times == 1
    least, most = _AGAIN
    if not max(LEAST_GROUP, least * len(frame)) <= len(often) <= most * len(frame):
        return
    long = np.expm1(median(frame["answer_chars"].filter(once))) / 6 >= _LABELS
    if long and once.sum() + len(often) >= MOST * len(frame):
        words = "are a few that are given again and again, where nearly all are given once"
        yield share_alarm("doubtful_masses", often.to_numpy(), len(frame), words, "both")


def same_sentences(frame: Table) -> Iterator[Alarm]:
    """Yield an alarm for a sentence that a good part of different answers begins or ends with."""
    different = is_first(frame["answer"])
    for name, words in (("first_sentence", "begin"), ("last_sentence", "end")):
        values = frame[name].filter(different)
        counts = frequencies(values, 1)
        if counts.is_empty() or not _SENTENCE <= counts["count"][0] / len(frame) <= MOST:
            continue
        rows = frame["row"].filter(different).filter(values == counts[name][0]).to_numpy()
        quote: Quote = "answer" if words == "begin" else "end"
        yield share_alarm(
            "doubtful_masses", rows, len(frame), f"{words} with one and the same sentence", quote
        )


def same_ends(frame: Table, told: "Told") -> Iterator[Alarm]:
    """Yield an alarm for a label or an address that a good part of different answers has."""
    different = is_first(frame["answer"])
    for name, (least, words) in _SHARED.items():
        counts = frequencies(frame[name].filter(different), 1)
        if counts.is_empty() or counts["count"][0] < max(LEAST_GROUP, least * len(frame)):
            continue
        group = (frame[name] == counts[name][0]).fill_null(False)
        if group.sum() > MOST * len(frame) or told(group.to_numpy()):
            continue
        quote: Quote = "answer" if name == "label" else "end"
        rows = frame["row"].filter(group).to_numpy()
        yield share_alarm("doubtful_masses", rows, len(frame), words, quote)
