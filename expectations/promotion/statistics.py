"""Paired differences with intervals, by methods that hold for small and for skewed samples.

Examples are taken to be independent of each other: an example that occurs several times is to be
averaged before. Several questions of one conversation are not independent, and the intervals are too
narrow by what they have in common; the rows that `evaluate` asks one question each of are.
"""

from collections.abc import Sequence
from math import ceil, inf, sqrt
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FEWEST = 8  # examples by which anything is decided: below it no exact test of signs reaches 1 %
POWER = 0.8  # by which the number of examples needed is reckoned
LARGE = 20_000  # examples from which the central limit theorem serves as well as a bootstrap
_DRAWN = 4_000_000  # numbers that are drawn at once, 32 MB


class Estimate(NamedTuple):
    """A mean difference: its interval, the chance of one as far from 0 if there is none (two-sided),
    and the standard deviation of one example's difference."""

    value: float
    low: float
    high: float
    p: float
    spread: float


def mean_difference(
    differences: "NDArray[np.float64]",
    weights: "NDArray[np.float64]",
    alpha: float,
    resamples: int,
    seed: int,
) -> Estimate:
    """Return the weighted mean of `differences` (finite; one per example) with its 1 - alpha interval.

    On either side it is the wider of two: the bootstrap-t's, resampled by example, with the linearised
    error of a ratio of sums (Efron and Tibshirani 1993, chapter 12; Hall 1988), which is right for
    skewed differences and too narrow for heavy tails; and Student's, of which the opposite holds.
    Without any variance the signs are tested.
    """
    import numpy as np
    from scipy.stats import t as student

    count = len(differences)
    if count < 2:
        value = float(differences[0]) if count else 0.0
        return Estimate(value, -inf, inf, 1.0, 0.0)
    weights = weights / weights.mean()
    value = float(weights @ differences / count)
    residuals = weights * (differences - value)
    spread = float(sqrt(residuals @ residuals / (count - 1)))
    if spread <= 1e-12 * max(1.0, abs(value)):  # all alike but for rounding
        return Estimate(value, value, value, 2.0 ** (1 - count) if abs(value) > 1e-12 else 1.0, 0.0)
    error = spread / sqrt(count)
    if count > LARGE:
        return _normal(value, error, alpha, spread)
    drawn = np.sort(_studentised(differences, weights, value, resamples, seed))
    t = value / error
    below = (1 + np.searchsorted(drawn, t, "right")) / (resamples + 1)
    above = (1 + resamples - np.searchsorted(drawn, t, "left")) / (resamples + 1)
    # The order statistics themselves: between one that is infinite and its neighbour lies no number.
    rank = max(1, int((resamples + 1) * alpha / 2)) - 1
    reach = student.isf(alpha / 2, count - 1)
    low = value - max(drawn[resamples - 1 - rank], reach) * error
    high = value - min(drawn[rank], -reach) * error
    p = max(min(1.0, 2 * min(below, above)), 2 * student.sf(abs(t), count - 1))
    return Estimate(value, float(low), float(high), float(p), spread)


def _studentised(
    differences: "NDArray[np.float64]",
    weights: "NDArray[np.float64]",
    value: float,
    resamples: int,
    seed: int,
) -> "NDArray[np.float64]":
    """Return, of each resample, how many of its own standard errors its mean is off `value`."""
    import numpy as np

    generator, count = np.random.default_rng(seed), len(differences)
    centred = differences - value
    columns = np.stack(
        [weights, weights * centred, weights**2 * centred**2, weights**2 * centred, weights**2], 1
    )
    parts = []
    chunk = max(1, _DRAWN // count)
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        places = generator.integers(0, count, (rows, count)) + count * np.arange(rows)[:, None]
        times = np.bincount(places.ravel(), minlength=rows * count).reshape(rows, count)
        total, first, square, mixed, squares = (times @ columns).T
        mean = first / total
        variance = np.maximum(square - 2 * mean * mixed + mean**2 * squares, 0) / total**2
        error = np.sqrt(variance * count / (count - 1))
        flat = error <= 1e-12 * np.abs(centred).max()
        limit = np.where(np.abs(mean) <= 1e-12 * np.abs(centred).max(), 0.0, np.copysign(inf, mean))
        parts.append(np.where(flat, limit, mean / np.where(flat, 1.0, error)))
    return np.concatenate(parts)


def _normal(value: float, error: float, alpha: float, spread: float) -> Estimate:
    from scipy.stats import norm

    reach = norm.isf(alpha / 2) * error
    return Estimate(
        value, value - reach, value + reach, float(2 * norm.sf(abs(value) / error)), spread
    )


def share_difference(won: int, lost: int, examples: int, alpha: float) -> Estimate:
    """Return the difference of two shares of the same `examples`, of which the first model alone
    `won` some and the second alone (`lost`) others.

    The chance is that of the exact McNemar test, the interval Tango's score interval (1998), which also
    holds where nearly all, or no, examples differ.
    """
    from scipy.stats import binomtest

    value = (won - lost) / examples if examples else 0.0
    low, high = _tango(won, lost, examples, alpha) if examples else (-inf, inf)
    different = won + lost
    p = float(binomtest(won, different).pvalue) if different else 1.0
    # Where none differs, it is not known that none ever would.
    share = max(different, 1) / (examples + 1)
    return Estimate(value, low, high, p, sqrt(max(share - value**2, share / 4)))


def _tango(won: int, lost: int, examples: int, alpha: float) -> tuple[float, float]:
    from scipy.optimize import brentq
    from scipy.stats import norm

    z, value = float(norm.isf(alpha / 2)), (won - lost) / examples

    def distance(delta: float) -> float:
        """Return how many standard errors the observed difference is above `delta`."""
        linear = (2 * examples - won + lost) * delta - won - lost
        constant = -lost * delta * (1 - delta)
        root = sqrt(max(linear**2 - 8 * examples * constant, 0.0))
        share = (root - linear) / (4 * examples)  # of losses, at its likeliest if delta is true
        variance = examples * (2 * share + delta * (1 - delta))
        gap = won - lost - examples * delta
        return gap / sqrt(variance) if variance > 1e-15 else (0.0 if gap == 0 else gap * inf)

    edge = 1 - 1e-12
    low = -1.0 if value <= -edge else brentq(lambda delta: distance(delta) - z, -edge, value)
    high = 1.0 if value >= edge else brentq(lambda delta: distance(delta) + z, value, edge)
    return float(low), float(high)


def holm(chances: Sequence[float]) -> list[float]:
    """Return the chances corrected for being of one family (Holm 1979), in their order: the one of
    none of them being below alpha by accident is at least 1 - alpha."""
    order = sorted(range(len(chances)), key=chances.__getitem__)
    corrected, highest = [1.0] * len(chances), 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(chances) - rank) * chances[place]))
        corrected[place] = highest
    return corrected


def examples_to_differ(
    value: float,
    margin: float,
    spread: float,
    noise: float,
    alpha: float,
    *,
    is_share: bool = False,
    power: float = POWER,
) -> int | None:
    """Return how many examples show, with `power`, a true difference of `value` to be one.

    It has to be significant at `alpha` (two-sided) beside `noise`, and seen to be beyond `margin`. None:
    no number of examples would do. The exact test of shares needs some more, for its steps (after
    Connett, Smith and McHugh 1987, whose correction is half of this one and falls short of the power).
    """
    from scipy.stats import norm

    size = abs(value)
    z, reserve = float(norm.isf(alpha / 2)), float(norm.isf(1 - power))
    if size <= margin:
        return None
    if is_share:  # its spread is greater where there is no difference
        spread = sqrt(spread**2 + size**2)
    # To be seen above `margin` and above z errors beside the noise: both are thresholds of one number.
    beyond = (reserve * spread / (size - margin)) ** 2
    significant = _beside(size, spread, noise, z, reserve)
    if significant is None:
        return None
    return max(FEWEST, ceil(max(beyond, significant) + (2 / size if is_share else 2)))


def _beside(size: float, spread: float, noise: float, z: float, reserve: float) -> float | None:
    """Return the examples for which `size` is z·√(error² + noise²) and reserve·error."""
    if size <= z * noise:
        return None
    if not noise:
        return ((z + reserve) * spread / size) ** 2
    # size - reserve·e = z·√(e² + noise²), squared and solved for the error e.
    a, b, c = z**2 - reserve**2, 2 * reserve * size, (z * noise) ** 2 - size**2
    error = -c / b if abs(a) < 1e-12 else (-b + sqrt(b**2 - 4 * a * c)) / (2 * a)
    return (spread / error) ** 2


def examples_to_equal(
    value: float, margin: float, spread: float, alpha: float, power: float = POWER
) -> int | None:
    """Return how many examples show, with `power`, a true difference of `value` to be within `margin`
    on both sides; None: no number would."""
    from scipy.stats import norm

    room = margin - abs(value)
    if room <= 0:
        return None
    reach = float(norm.isf(alpha / 2) + norm.isf((1 - power) / 2))
    return max(FEWEST, ceil((reach * spread / room) ** 2))


def examples_to_hold(
    value: float, margin: float, spread: float, alpha: float, power: float = POWER
) -> int | None:
    """Return how many examples show, with `power`, that a true difference of `value` is above
    -margin; None: no number would."""
    from scipy.stats import norm

    room = value + margin
    if room <= 0:
        return None
    reach = float(norm.isf(alpha / 2) + norm.isf(1 - power))
    return max(FEWEST, ceil((reach * spread / room) ** 2))


def fewest_to_hold(margin: float, alpha: float) -> float:
    """Return how many examples of 0/1 grades it takes to show at all that nothing is worse by more than
    `margin`: with fewer, Tango's interval is wider even if no two grades differ."""
    from scipy.stats import norm

    square = float(norm.isf(alpha / 2)) ** 2
    return square * (1 - margin) / margin if margin > 0 else inf


def smallest_effect(
    examples: int, spread: float, margin: float, noise: float, alpha: float, power: float = POWER
) -> float:
    """Return the smallest true difference that so many examples show with `power`."""
    from scipy.stats import norm

    if examples < FEWEST:
        return inf
    error = spread / sqrt(examples)
    z, reserve = float(norm.isf(alpha / 2)), float(norm.isf(1 - power))
    return max(margin + reserve * error, z * sqrt(error**2 + noise**2) + reserve * error)
