"""Masses and outliers within one dataset: what many answers share that no question asks for.

A fault of an export strikes rows whatever they are about; what a dataset means to be follows from
the question or the source. So a group of answers that stands out is named where neither tells
who is in it.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from expectations.data.profile.again import MOST, canned, given_again, same_ends, same_sentences
from expectations.data.profile.alarms import (
    LEAST_GROUP,
    LEAST_ROWS,
    Alarm,
    Expectation,
    Quote,
    share_alarm,
)
from expectations.data.profile.averages import mean
from expectations.data.profile.gaps import groups
from expectations.data.profile.table import Table, is_first

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    Told = Callable[[np.ndarray], bool]

CRITICAL: Expectation = "implausible_masses"
DOUBTFUL: Expectation = "doubtful_masses"


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
    # Of real conversations, many of them about code, up to 5.2 % do.
    "escapes": Sign("hold escapes such as \\n as text outside code", 0.08, 0.2),
    "role_lines": Sign("hold lines that begin like another turn", 0.02, 0.1),
    "copied_button": Sign('hold the words of a copy button ("Copy code")', 0.03, 0.1),
    "echo": Sign("begin with the question, word by word", 0.05, 1.0),
    "json": Sign("are JSON, whatever is asked", 0.05, 1.0),
    "doubled": Sign("are one text twice", 0.02, 0.1),
    "quoted": Sign('are in quotation marks, with "" in the place of " inside', 0.03, 0.2),
    "thought_open": Sign("open <think> and never close it", 0.02, 0.05),
    "markdown_escapes": Sign("hold escapes of Markdown such as \\. and \\* as text", 0.05, 1.0),
}
_ALL_CUT = 0.4  # share of answers of several sentences that stop within the last one
_PAIRS = 20  # of answers, which would have one length by chance
_LONGEST = 1_000_000  # characters of an answer; longer ones count as having one length
_SAME_LENGTH = 0.02  # share of answers of one length, in characters, each another text


def masses(frame: Table, told: "Told") -> list[Alarm]:
    """Return what is implausible or doubtful in the numbers of one dataset.

    `frame` is a line per row (see `numbers.numbers`); `told` says whether the question or the source
    tells which rows are in a group (a boolean per line).
    """
    if len(frame) < LEAST_ROWS:
        return []
    said = list(canned(frame)) or list(given_again(frame))
    signs = list(_signs(frame, told))
    shared = [*same_sentences(frame), *same_ends(frame, told)]
    found = [
        *said,
        *_same_length(frame),
        *_no_two_lengths(frame),
        *_all_cut(frame),
        *signs,
        *shared,
    ]
    named = {alarm.value for alarm in found}
    # What was named already is not named again by its length or its symbols.
    return [*found, *(a for a in groups(frame, told) if a.value not in named)]


def _no_two_lengths(frame: Table) -> Iterator[Alarm]:
    """Yield an alarm if hardly any two answers have one length, as if one row of each had been kept: by
    chance, as many pairs have it as are one character apart, halved."""
    import numpy as np

    counts = np.bincount(_lengths(frame["answer_chars"])).astype(np.float64)
    equal = float((counts * (counts - 1)).sum()) / 2
    apart = [float((counts[by:] * counts[:-by]).sum()) / 2 for by in (1, 2, 3) if by < len(counts)]
    if apart and min(apart) >= _PAIRS and equal < 0.1 * min(apart):
        words = "have each another length, as if rows had been told apart by it"
        yield share_alarm(DOUBTFUL, frame["row"].to_numpy(), len(frame), words)


def _same_length(frame: Table) -> Iterator[Alarm]:
    """Yield an alarm for answers that were cut at one length: many of exactly that many characters,
    different ones, of which hardly any ends with a sentence."""
    import numpy as np

    different = is_first(frame["answer"])
    lengths = _lengths(frame["answer_chars"].filter(different))
    counts = np.bincount(lengths)
    counts[:40] = 0  # short answers have few lengths
    length = int(counts.argmax())
    near = np.r_[counts[max(0, length - 10) : length], counts[length + 1 : length + 11]]
    there = lengths == length
    ended = frame["ended"].filter(different)
    few_ends = mean(ended.filter(there)) < 0.5
    if counts[length] < max(LEAST_GROUP, _SAME_LENGTH * len(frame)) or not few_ends:
        return
    if counts[length] > 5 * (near.mean() + 1) and mean(ended) < MOST:
        words = f"are exactly {length:,} characters long, and most of these stop within a sentence"
        rows = frame["row"].filter(different).filter(there).to_numpy()
        yield share_alarm(CRITICAL, rows, len(frame), words, "end")


def _lengths(logarithms: "pl.Series") -> "np.ndarray":
    """Return lengths in characters, of at most a million, from what stands in the table."""
    import numpy as np

    lengths = logarithms.to_numpy().astype(np.float64)
    np.rint(np.expm1(lengths, out=lengths), out=lengths)
    return np.minimum(lengths, _LONGEST, out=lengths).astype(np.int64)


def _all_cut(frame: Table) -> Iterator[Alarm]:
    """Yield an alarm if answers of several sentences stop within the last one as often as not."""
    inner = frame["inner"]
    several, cut = int(inner.sum() or 0), frame["row"].filter(inner & frame["cut"]).to_numpy()
    if len(cut) >= max(LEAST_GROUP, _ALL_CUT * several) and several >= 0.2 * len(frame):
        words = "have several sentences and stop in the middle of the last one"
        yield share_alarm(CRITICAL, cut, len(frame), words, "end")


def _signs(frame: Table, told: "Told") -> Iterator[Alarm]:
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
        rows = frame["row"].filter(frame[name]).to_numpy()
        yield share_alarm(expectation, rows, total, sign.words, sign.quote)


def _others_end(frame: Table) -> bool:
    others = frame["ended"].filter(~frame["cut"])
    return len(others) > 0 and mean(others) >= 0.7
