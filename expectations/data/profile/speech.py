"""What texts say more or less often than those of the last accepted dataset: their words, marks and
pairs of these (`vocabulary`), each by the share of texts that have it."""

from collections.abc import Mapping
from math import log, sqrt
from typing import TYPE_CHECKING, NamedTuple

from expectations.data.profile.alarms import LEAST_ROWS, Alarm
from expectations.data.profile.record import Profile
from expectations.data.profile.vocabulary import (
    LEAST_MOVE,
    LEAST_SHARE,
    key,
    named,
    unpacked,
    without_parts,
)

if TYPE_CHECKING:
    import polars as pl

_SIGMA = (
    5.0  # beyond chance; some twenty thousand words are compared, and those of one topic together
)
_COUNT = 9  # so much more than the distance of a distribution: 1.2 % of the texts are as far as 0.1
_SHOWN = 3  # words of a sentence
PARTS = {
    "answers": "answer_words",
    "questions": "question_words",
}  # of texts, by field of the record


class _Move(NamedTuple):
    """What is said, by which shares of the texts then and now, and a row with an excerpt of it."""

    said: str
    then: float
    now: float
    row: int
    excerpt: str | None

    @property
    def surprise(self) -> float:
        """How much it says of what happened: a new word more than a common one that is a bit more so."""
        return max(self.now, self.then) * abs(log(max(self.now, LEAST_SHARE) / self.then))


def speech(reference: Profile, new: Profile, words: "Mapping[str, pl.DataFrame]") -> list[Alarm]:
    """Return what the texts of each of PARTS say more, and less, often; `words` are what they say now."""
    if min(reference.rows, new.rows) < LEAST_ROWS:
        return []
    alarms = []
    for part, frame in words.items():
        record = getattr(reference, PARTS[part])
        if record:
            moves = _moves(unpacked(record), frame, _spread(reference, new))
            alarms += _alarms(part, moves)
    return alarms


def _spread(reference: Profile, new: Profile) -> float:
    """Return 1 / n + 1 / m of the texts that were compared, as many as know nothing of each other."""
    return sum(one.rows / (one.independent * max(one.sampled, 1)) for one in (reference, new))


def _moves(then: dict[int, float], words: "pl.DataFrame", spread: float) -> list[_Move]:
    """Return what moved by more than chance; what was rare then is taken as the most it can have been."""
    found = []
    for said, now, row, excerpt in words.select("said", "share", "row", "excerpt").rows():
        before = then.get(key(said), LEAST_SHARE)
        mean = (before + now) / 2
        if abs(now - before) >= max(LEAST_MOVE, _SIGMA * sqrt(mean * (1 - mean) * spread)):
            found.append(_Move(said, before, now, row, excerpt))
    # Of words and pairs of them that say as much, the longer ones say what it is.
    return sorted(found, key=lambda move: (-round(move.surprise, 3), -len(move.said)))


def _alarms(part: str, moves: list[_Move]) -> list[Alarm]:
    more = [move for move in moves if move.now > move.then]
    less = [move for move in moves if move.now < move.then]
    return [
        _alarm(part, ours, often)
        for ours, often in ((more, "more"), (less, "less"))
        if any(move.excerpt is not None for move in ours)  # else there is nothing to show
    ]


def _alarm(part: str, moves: list[_Move], often: str) -> Alarm:
    """Return what is said of moves in one direction, with an example of what is new."""
    by_said = {move.said: move for move in moves if move.excerpt is not None}
    shown = [by_said[said] for said in without_parts(by_said)][:_SHOWN]
    sentence = f"{part} have {', '.join(_told(move) for move in shown)}"
    if len(moves) > len(shown):
        sentence += f" and {len(moves) - len(shown)} other words or marks {often} often"
    if often == "more":
        sentence += f", e.g. row {shown[0].row} ({shown[0].excerpt!r})"
    value = min(1.0, _COUNT * max(abs(move.now - move.then) for move in moves))
    return Alarm(expectation="profile_drift", value=value, sentence=sentence, quote="")


def _told(move: _Move) -> str:
    return f"{named(move.said)} in {move.now:.1%} ({_then(move.then)} then)"


def _then(share: float) -> str:
    return f"{share:.1%}" if share > LEAST_SHARE else f"at most {share:.1%}"
