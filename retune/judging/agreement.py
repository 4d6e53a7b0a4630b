"""Cohen's κ: how far two raters agree beyond what chance would make them."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

CONFIDENCE = 0.95


class Agreement(NamedTuple):
    """κ of two raters (1: always, 0: as chance has it), with its interval, over so many examples."""

    kappa: float
    low: float
    high: float
    examples: int


def agreement(one: Sequence[str], other: Sequence[str]) -> Agreement:
    """Return κ of the verdicts of two raters on the same examples.

    The interval is Cohen's (1960), for which chance's share is what was seen, with exact binomial
    bounds instead of the normal ones: of a few examples that all agree it is no point. Raises
    ValueError for no examples, or where both raters know one verdict alone.
    """
    from scipy.stats import binomtest

    count = len(one)
    same = sum(a == b for a, b in zip(one, other, strict=True))
    first, second = Counter(one), Counter(other)
    chance = sum(first[verdict] * second[verdict] for verdict in first) / max(1, count**2)
    if not count or chance == 1:
        raise ValueError("κ needs examples, and two verdicts at least")
    bounds = binomtest(same, count).proportion_ci(CONFIDENCE, method="exact")
    shares = (same / count, float(bounds.low), float(bounds.high))
    kappa, low, high = ((share - chance) / (1 - chance) for share in shares)
    return Agreement(kappa, max(-1.0, low), high, count)
