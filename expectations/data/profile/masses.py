"""Masses and outliers within one dataset: what many answers share that no question asks for.

A fault of an export strikes rows whatever they are about; what a dataset means to be follows from
the question or the source. So a group of answers that stands out is named where neither tells
who is in it.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from expectations.data.profile.alarms import (
    LEAST_GROUP,
    LEAST_ROWS,
    Alarm,
    Expectation,
    Quote,
    share_alarm,
)
from expectations.data.profile.averages import mean, median
from expectations.data.profile.numbers import MEASURED

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    Told = Callable[[np.ndarray], bool]

CRITICAL: Expectation = "implausible_masses"
DOUBTFUL: Expectation = "doubtful_masses"
MOST = 0.9  # of what nearly all answers do it is a dataset's way


class Sign(NamedTuple):
    """What a flag of NUMBERS means as a mass: the share (0 to 1) from which it is doubtful, from
    which implausible, and what is quoted."""

    words: str
    doubtful: float
    implausible: float
    quote: Quote = "answer"


SIGNS = {
    "cut": Sign("end in mid-sentence, where the others end their sentences", 0.05, 0.1, "end"),
    "trails": Sign("end with an ellipsis, whatever is asked", 0.1, 1.0, "end"),
    "no_capitals": Sign("have no capital letter, where the others have", 0.05, 1.0),
    "fence_open": Sign("open a code fence and never close it", 0.02, 0.05, "end"),
    "tags": Sign("hold HTML tags outside code, whatever is asked", 0.03, 1.0),
    "entities": Sign("hold HTML entities such as &nbsp; outside code", 0.03, 0.1),
    "escapes": Sign("hold escapes such as \\n as text outside code", 0.05, 0.2),
    "role_lines": Sign("hold lines that begin like another turn", 0.02, 0.1),
    "copied_button": Sign('hold the words of a copy button ("Copy code")', 0.03, 0.1),
    "echo": Sign("begin with the question, word by word", 0.05, 1.0),
    "json": Sign("are JSON, whatever is asked", 0.05, 1.0),
    "doubled": Sign("are one text twice", 0.02, 0.1),
    "quoted": Sign('are in quotation marks, with "" in the place of " inside', 0.03, 0.2),
    "thought_open": Sign("open <think> and never close it", 0.02, 0.05),
    "markdown_escapes": Sign("hold escapes of Markdown such as \\. and \\* as text", 0.05, 1.0),
}
# Numbers of answers of which a group far from the rest is named.
_SPREAD = (
    *("answer_chars", "answer_symbols", "answer_digits", "answer_upper", "answer_non_ascii"),
    *("answer_invisible", "answer_marks", "answer_spaces", "answer_question_marks", "compression"),
)
_FAR = 0.85  # of the variance lies between the two groups; of one bell curve it is 0.64
_GROUP = (0.03, 0.45)  # least and largest share of a group that is far from the rest
_LEAST_DISTANCE = {"answer_chars": 1.6, "compression": 0.2}  # of the means; 0.05 for shares
_TELLING = 40  # characters; of shorter answers, one sign makes a share
_CANNED = (0.03, 0.25)  # share of one answer that is doubtful, and implausible
_ALL_CUT = 0.4  # share of answers of several sentences that stop within the last one
_SENTENCE = 0.2  # share of answers that begin or end with one sentence
_SHARED = {  # least share of different answers, and what these have in common
    "label": (0.1, "begin with one and the same label, whatever is asked"),
    "last_address": (0.05, "end with one and the same web address, whatever is asked"),
}
_LABELS = 4  # words; of shorter answers, many are the same in a sound dataset
_AGAIN, _OFTEN = (0.04, 0.3), 5  # share of answers that are given so often, where most are once
_PAIRS = 20  # of answers, which would have one length by chance
_SAME_LENGTH = 0.02  # share of answers of one length, in characters, each another text


def masses(frame: "pl.DataFrame", told: "Told") -> list[Alarm]:
    """Return what is implausible or doubtful in the numbers of one dataset.

    `frame` is a line per row (see `numbers.numbers`); `told` says whether the question or the source
    tells which rows are in a group (a boolean per line).
    """
    if len(frame) < LEAST_ROWS:
        return []
    canned = list(_canned(frame)) or list(_given_again(frame))
    signs = list(_signs(frame, told))
    shared = [*_sentences(frame), *_shared(frame, told)]
    found = [
        *canned,
        *_same_length(frame),
        *_no_two_lengths(frame),
        *_all_cut(frame),
        *signs,
        *shared,
    ]
    named = {alarm.value for alarm in found}
    # What was named already is not named again by its length or its symbols.
    return [*found, *(a for a in _groups(frame, told) if a.value not in named)]


def _canned(frame: "pl.DataFrame") -> Iterator[Alarm]:
    """Yield an alarm for each answer that many rows have, where answers are no labels."""
    import numpy as np
    import polars as pl

    counts = frame["answer"].value_counts(sort=True)
    total = len(frame)
    for answer, count in counts.head(5).rows():
        others = frame.filter(pl.col("answer") != answer)
        if count < max(LEAST_GROUP, _CANNED[0] * total) or len(others) < LEAST_GROUP:
            return
        long = np.expm1(median(others["answer_chars"])) / 6 >= _LABELS
        if not long or others["answer"].n_unique() < 0.5 * len(others):
            return
        rows = frame.filter(pl.col("answer") == answer)["row"].to_numpy()
        expectation = CRITICAL if count >= _CANNED[1] * total else DOUBTFUL
        yield share_alarm(expectation, rows, total, "are one and the same")


def _given_again(frame: "pl.DataFrame") -> Iterator[Alarm]:
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
        yield share_alarm(DOUBTFUL, often["row"].to_numpy(), len(frame), words, "both")


def _no_two_lengths(frame: "pl.DataFrame") -> Iterator[Alarm]:
    """Yield an alarm if hardly any two answers have one length, as if one row of each had been kept: by
    chance, as many pairs have it as are one character apart, halved."""
    import numpy as np

    lengths = np.rint(np.expm1(frame["answer_chars"].to_numpy().astype(np.float64)))
    counts = np.bincount(np.minimum(lengths, 1_000_000).astype(np.int64)).astype(np.float64)
    equal = float((counts * (counts - 1)).sum()) / 2
    apart = [float((counts[by:] * counts[:-by]).sum()) / 2 for by in (1, 2, 3) if by < len(counts)]
    if apart and min(apart) >= _PAIRS and equal < 0.1 * min(apart):
        words = "have each another length, as if rows had been told apart by it"
        yield share_alarm(DOUBTFUL, frame["row"].to_numpy(), len(frame), words)


def _same_length(frame: "pl.DataFrame") -> Iterator[Alarm]:
    """Yield an alarm for answers that were cut at one length: many of exactly that many characters,
    different ones, of which hardly any ends with a sentence."""
    import numpy as np
    import polars as pl

    different = frame.unique("answer", keep="first", maintain_order=True)
    lengths = np.rint(np.expm1(different["answer_chars"].to_numpy().astype(np.float64)))
    lengths = lengths.astype(np.int64)
    counts = np.bincount(np.minimum(lengths, 1_000_000))
    counts[:40] = 0  # short answers have few lengths
    length = int(counts.argmax())
    near = np.r_[counts[max(0, length - 10) : length], counts[length + 1 : length + 11]]
    there = different.filter(pl.Series(lengths == length))
    few_ends = mean(there["ended"]) < 0.5
    if counts[length] < max(LEAST_GROUP, _SAME_LENGTH * len(frame)) or not few_ends:
        return
    if counts[length] > 5 * (near.mean() + 1) and mean(different["ended"]) < MOST:
        words = f"are exactly {length:,} characters long, and most of these stop within a sentence"
        yield share_alarm(CRITICAL, there["row"].to_numpy(), len(frame), words, "end")


def _all_cut(frame: "pl.DataFrame") -> Iterator[Alarm]:
    """Yield an alarm if answers of several sentences stop within the last one as often as not."""
    several = frame.filter("inner")
    cut = several.filter("cut")["row"].to_numpy()
    if len(cut) >= max(LEAST_GROUP, _ALL_CUT * len(several)) and len(several) >= 0.2 * len(frame):
        words = "have several sentences and stop in the middle of the last one"
        yield share_alarm(CRITICAL, cut, len(frame), words, "end")


def _signs(frame: "pl.DataFrame", told: "Told") -> Iterator[Alarm]:
    import polars as pl

    for name, sign in SIGNS.items():
        group = frame[name].to_numpy()
        count, total = int(group.sum()), len(frame)
        if count < max(LEAST_GROUP, sign.doubtful * total) or count > MOST * total:
            continue
        if name == "cut" and not _others_end(frame):
            continue
        if told(group):
            continue
        expectation = CRITICAL if count >= sign.implausible * total else DOUBTFUL
        rows = frame.filter(pl.col(name))["row"].to_numpy()
        yield share_alarm(expectation, rows, total, sign.words, sign.quote)


def _others_end(frame: "pl.DataFrame") -> bool:
    others = frame.filter(~frame["cut"])
    return len(others) > 0 and mean(others["ended"]) >= 0.7


def _sentences(frame: "pl.DataFrame") -> Iterator[Alarm]:
    """Yield an alarm for a sentence that a good part of different answers begins or ends with."""
    import polars as pl

    different = frame.unique("answer", keep="first", maintain_order=True)
    for name, words in (("first_sentence", "begin"), ("last_sentence", "end")):
        counts = different[name].drop_nulls().value_counts(sort=True)
        if counts.is_empty() or not _SENTENCE <= counts["count"][0] / len(frame) <= MOST:
            continue
        rows = different.filter(pl.col(name) == counts[name][0])["row"].to_numpy()
        quote: Quote = "answer" if words == "begin" else "end"
        yield share_alarm(
            DOUBTFUL, rows, len(frame), f"{words} with one and the same sentence", quote
        )


def _shared(frame: "pl.DataFrame", told: "Told") -> Iterator[Alarm]:
    """Yield an alarm for a label or an address that a good part of different answers has."""
    different = frame.unique("answer", keep="first", maintain_order=True)
    for name, (least, words) in _SHARED.items():
        counts = different[name].drop_nulls().value_counts(sort=True)
        if counts.is_empty() or counts["count"][0] < max(LEAST_GROUP, least * len(frame)):
            continue
        group = (frame[name] == counts[name][0]).fill_null(False)
        if group.sum() > MOST * len(frame) or told(group.to_numpy()):
            continue
        quote: Quote = "answer" if name == "label" else "end"
        yield share_alarm(DOUBTFUL, frame["row"].filter(group).to_numpy(), len(frame), words, quote)


def _groups(frame: "pl.DataFrame", told: "Told") -> Iterator[Alarm]:
    """Yield an alarm for each number in which a group of answers is far from all others."""
    import numpy as np

    total = len(frame)
    if np.expm1(median(frame["answer_chars"])) < _TELLING:
        return
    for name in _SPREAD:
        values = frame[name].to_numpy()
        group = far_group(
            values, _LEAST_DISTANCE.get(name, 0.05 if name != "answer_invisible" else 0.01)
        )
        if group is None or group.sum() < LEAST_GROUP or told(group):
            continue
        title = MEASURED[name].removesuffix(" of the answer").removesuffix(" in the answer")
        apart = (
            f"{_shown(name, values[group])} where the others have {_shown(name, values[~group])}"
        )
        words = f"are far from the rest, whatever is asked: {title} {apart}"
        yield share_alarm(DOUBTFUL, frame["row"].to_numpy()[group], total, words)


def far_group(values: "np.ndarray", least_distance: float) -> "np.ndarray | None":
    """Return which values form the smaller of two groups with a wide gap between, None if they don't.

    The cut with the largest variance between the groups (Otsu 1979).
    """
    import numpy as np

    ordered = np.sort(values.astype(np.float64))
    if len(ordered) < 2 * LEAST_GROUP:
        return None
    count, spread = len(ordered), ordered.var()
    if spread <= 0:
        return None
    sums, below = np.cumsum(ordered)[:-1], np.arange(1, count)
    low, high = sums / below, (ordered.sum() - sums) / (count - below)
    between = below / count * (1 - below / count) * (high - low) ** 2
    place = int(between.argmax())
    least, most = _GROUP
    share = min(place + 1, count - place - 1) / count
    if between[place] < _FAR * spread or not least <= share <= most:
        return None
    if high[place] - low[place] < least_distance:
        return None
    upper = values > (ordered[place] + ordered[place + 1]) / 2
    return upper if upper.sum() <= count / 2 else ~upper


def _shown(name: str, values: "np.ndarray") -> str:
    import numpy as np

    middle = float(np.median(values))
    return f"{np.expm1(middle):,.0f}" if name == "answer_chars" else f"{middle:.2f}"
