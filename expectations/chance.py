"""Whether a share that is beyond its limit is more than chance: a limit on few answers is no exact line.

One-sided exact tests. Beyond its limit is what would be seen so, or worse, in at most SIGNIFICANCE of
all samples of this size if the model that is judged were right at the limit. So a limit holds for few
questions as for many: of few it catches what is broken, of many what is a little worse, too.
"""

from typing import NamedTuple

from expectations.verdicts import at_most

SIGNIFICANCE = 0.05


class Drop(NamedTuple):
    """Of how many answers (`of`) a property was `lost`, and of how many `gained`; the others kept it
    or never had it."""

    lost: int
    gained: int
    of: int

    @property
    def share(self) -> float:
        """By how much the share of answers with the property is lower, 0 to 1; below 0 it is higher."""
        return (self.lost - self.gained) / self.of

    def p_value(self, limit: float) -> float:
        """Return how likely such a drop, or a larger one, is if the true one is `limit` (0 to 1) and
        answers are gained at the rate that was seen.

        The exact sum over all samples of answers in pairs. Where none is gained, that is the binomial
        test of the answers lost.
        """
        import numpy as np
        from scipy.stats import binom

        gained = self.gained / self.of
        changed = min(1.0, 2 * gained + limit)
        if not changed:
            return float(not self.lost)
        counts = np.arange(self.of + 1)  # of answers that changed
        least_lost = np.ceil((self.lost - self.gained + counts) / 2)
        as_bad = binom.sf(least_lost - 1, counts, min(1.0, (gained + limit) / changed))
        return float(binom.pmf(counts, self.of, changed) @ as_bad)

    def within(self, limit: float) -> bool:
        """Tell whether the drop is at most `limit`, or no more above it than chance explains."""
        return at_most(self.share, limit) or self.p_value(limit) > SIGNIFICANCE

    def words(self, limit: float) -> str:
        """Return what was lost and gained, with its likelihood where that decides."""
        seen = f"{self.lost} of {self.of} lost, {self.gained} gained"
        if at_most(self.share, limit):
            return seen
        return f"{seen}; {likelihood(self.p_value(limit))}"


def share_p_value(count: int, of: int, limit: float) -> float:
    """Return how likely `count` or more out of `of` are if the true share is `limit` (0 to 1)."""
    from scipy.stats import binom

    return float(binom.sf(count - 1, of, limit))


def share_within(count: int, of: int, limit: float) -> bool:
    """Tell whether `count` out of `of` is a share of at most `limit`, or no more above it than chance
    explains."""
    return at_most(count, limit * of) or share_p_value(count, of, limit) > SIGNIFICANCE


def likelihood(p_value: float) -> str:
    """Return in words what a p-value says of a share that is beyond its limit."""
    if p_value > SIGNIFICANCE:
        return f"chance explains this in so few (p = {p_value:.2g})"
    return f"more than chance (p = {p_value:.2g})"
