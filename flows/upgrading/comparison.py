"""What two environments made of the same probe, held against each other."""

import math
from collections.abc import Mapping, Sequence

from pydantic import BaseModel

from flows.upgrading.probes import Probed

# Relative: what one machine computes twice is the same, but for the order of its threads.
EQUAL = 1e-6
ABSOLUTE = 1e-7  # of a divergence, which is rounding itself
SLOWER = 1.5  # times as long: told, and no difference, for a machine has other work too


class Compared(BaseModel):
    """One thing that both made: in words, and whether it is the same."""

    subject: str
    old: str
    new: str
    same: bool


def compared(old: Probed, new: Probed) -> list[Compared]:
    """Return what the two made, thing by thing; only the failure where the new one came to no end."""
    if old.failure or new.failure:
        words = [probe.failure or "came to its end" for probe in (old, new)]
        return [Compared(subject="run", old=words[0], new=words[1], same=words[0] == words[1])]
    answers = sum(one != other for one, other in zip(old.answers, new.answers, strict=False))
    answers += abs(len(old.answers) - len(new.answers))
    return [
        _text("tokens", old.tokens, new.tokens),
        _text("mask", old.mask, new.mask),
        _numbers("losses", old.losses, new.losses),
        _measures("measures", old.measures, new.measures),
        _measures("merge", old.merge, new.merge),
        Compared(
            subject="answers",
            old=f"{len(old.answers)}",
            new=f"{answers} differ",
            same=not answers,
        ),
        _speed(old.speed, new.speed),
    ]


def _text(subject: str, old: str, new: str) -> Compared:
    return Compared(subject=subject, old=old, new=new, same=old == new)


def _numbers(subject: str, old: Sequence[float], new: Sequence[float]) -> Compared:
    same = len(old) == len(new) and all(map(_equal, old, new))
    return Compared(subject=subject, old=_shown(old), new=_shown(new), same=same)


def _measures(subject: str, old: Mapping[str, float], new: Mapping[str, float]) -> Compared:
    names = sorted({*old, *new})
    differing = [
        name for name in names if not _equal(old.get(name, math.nan), new.get(name, math.nan))
    ]
    told = differing[:3] or names[:3]
    sides = [
        ", ".join(f"{name} {side.get(name, math.nan):.7g}" for name in told) for side in (old, new)
    ]
    return Compared(subject=subject, old=sides[0], new=sides[1], same=not differing)


def _equal(old: float, new: float) -> bool:
    return math.isclose(old, new, rel_tol=EQUAL, abs_tol=ABSOLUTE)


def _shown(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.7g}" for value in values)


def _speed(old: Mapping[str, float], new: Mapping[str, float]) -> Compared:
    before, now = sum(old.values()), sum(new.values())
    words = f"{now:.0f} s" + (": much slower" if now > SLOWER * before else "")
    return Compared(subject="speed", old=f"{before:.0f} s", new=words, same=True)
