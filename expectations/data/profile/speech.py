"""What texts say more or less often than those of the last accepted dataset: their words, marks and
pairs of these (`vocabulary`), each by the share of texts that have it."""

from collections.abc import Iterator, Mapping
from math import log
from typing import TYPE_CHECKING, NamedTuple

from expectations.data.profile.alarms import LEAST_ROWS, Alarm
from expectations.data.profile.record import Profile, chance, noise
from expectations.data.profile.vocabulary import (
    LEAST_MOVE,
    LEAST_SHARE,
    LEAST_TEXTS,
    MOST,
    named,
    unpacked,
    without_parts,
)

if TYPE_CHECKING:
    import polars as pl

_COUNT = 9  # so much more than the distance of a distribution: 1.2 % of the texts are as far as 0.1
_SHOWN = 3  # words of a sentence
# Of texts, by field of the record.
PARTS = {"answers": "answer_words", "questions": "question_words"}


class _Move(NamedTuple):
    """By which shares of the texts something is said then and now; what it is, and a row with an excerpt
    of it, where that is known."""

    then: float
    now: float
    said: str | None = None
    row: int = 0
    excerpt: str = ""
    known: bool = True  # how often it was said then

    @property
    def surprise(self) -> float:
        """How much it says of what happened: a new word more than a common one that is a bit more so."""
        least = max(self.now, LEAST_SHARE) / max(self.then, LEAST_SHARE)
        return max(self.now, self.then) * abs(log(least))


def speech(reference: Profile, new: Profile, words: "Mapping[str, pl.DataFrame]") -> list[Alarm]:
    """Return what the texts of each of PARTS say more, and less, often; `words` are what they say now."""
    if min(reference.rows, new.rows) < LEAST_ROWS:
        return []
    alarms, spread = [], noise(reference, new)
    for part, frame in words.items():
        record = getattr(reference, PARTS[part])
        if record:
            moves = [
                move
                for move in _shares(unpacked(record), frame, reference.sampled)
                if _moved(move, spread)
            ]
            alarms += _alarms(part, moves)
    return alarms


def _shares(then: dict[int, float], words: "pl.DataFrame", texts: int) -> "Iterator[_Move]":
    """Yield the shares then and now of all that is remembered of one of both; what is not was, at most,
    as rare as what is remembered last."""
    least = max(LEAST_SHARE, (LEAST_TEXTS - 1) / max(texts, 1))
    if len(then) >= MOST:
        least = max(least, min(then.values()))
    for key, said, now, row, excerpt in words.select(
        "key", "said", "share", "row", "excerpt"
    ).rows():
        yield _Move(then.get(key, least), now, said, row, excerpt or "", key in then)
    known = set(words["key"].to_list())
    rarest = max(LEAST_SHARE, min(words["share"].to_list()) if len(words) >= MOST else 0.0)
    yield from (_Move(share, rarest) for key, share in then.items() if key not in known)


def _moved(move: _Move, spread: float) -> bool:
    """Tell whether a share moved by more than chance, and by enough to be told."""
    return abs(move.now - move.then) >= max(LEAST_MOVE, chance(move.then, move.now, spread))


def _alarms(part: str, moves: list[_Move]) -> list[Alarm]:
    more = [move for move in moves if move.now > move.then]
    less = [move for move in moves if move.now < move.then]
    return [_alarm(part, ours, often) for ours, often in ((more, "more"), (less, "less")) if ours]


def _alarm(part: str, moves: list[_Move], often: str) -> Alarm:
    """Return what is said of moves in one direction, with an example of what is new."""
    # Of words and pairs of them that say as much, the longer ones say what it is.
    by_said = {move.said: move for move in moves if move.said}
    ranked = sorted(by_said, key=lambda said: (-round(by_said[said].surprise, 3), -len(said)))
    shown = [by_said[said] for said in without_parts(ranked)][:_SHOWN]
    sentence = f"{part} have {', '.join(map(_told, shown))}"
    if rest := len(moves) - len(shown):
        more = f"{rest} other words or marks" if shown else f"{rest} words or marks"
        sentence += f"{' and ' * bool(shown)}{more} {often} often"
    if often == "more" and shown:
        sentence += f", e.g. row {shown[0].row} ({shown[0].excerpt!r})"
    value = min(1.0, _COUNT * max(abs(move.now - move.then) for move in moves))
    return Alarm(expectation="profile_drift", value=value, sentence=sentence, quote="")


def _told(move: _Move) -> str:
    then = f"{move.then:.1%}" if move.known else f"at most {move.then:.1%}"
    return f"{named(move.said or '')} in {move.now:.1%} ({then} then)"
