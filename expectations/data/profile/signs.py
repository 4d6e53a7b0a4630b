"""What groups of answers do (`residues`), by their shares, beside the last accepted dataset: a group that
is too small to be named by itself may be one that has grown."""

from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict

from expectations.data.profile.alarms import LEAST_ROWS, Alarm
from expectations.data.profile.record import Profile, chance, hashed, noise

LEAST_MOVE = 0.02  # of the answers
_COUNT = 5  # so much more than the distance of a distribution: 2 % of the answers are as far as 0.1


class Trait(BaseModel):
    """What a group of answers does, in `words`, and the alarm of it, whose value is their share."""

    model_config = ConfigDict(frozen=True)

    words: str
    alarm: Alarm


def shares(signs: Iterable[Trait]) -> dict[str, float]:
    """Return the share of each group, by a hash of what it does, which may name what texts say."""
    return {hashed(sign.words): round(sign.alarm.value, 6) for sign in signs}


def grown(
    reference: Profile, new: Profile, signs: Iterable[Trait], known: Iterable[Alarm] = ()
) -> list[Alarm]:
    """Return alarms for groups of which the share has grown by more than chance; what the alarms `known`
    name already is left out, and what the reference does not know."""
    if min(reference.rows, new.rows) < LEAST_ROWS:
        return []
    said = [alarm.sentence for alarm in known]
    found, spread = [], noise(reference, new)
    for sign in signs:
        now, then = sign.alarm.value, reference.signs.get(hashed(sign.words))
        if then is None or any(sign.words in sentence for sentence in said):
            continue
        if now - then >= max(LEAST_MOVE, chance(then, now, spread)):
            sentence = f"{sign.alarm.sentence}; {then:.1%} did then"
            value = min(1.0, _COUNT * (now - then))
            found.append(sign.alarm.model_copy(update={"sentence": sentence, "value": value}))
    return found
