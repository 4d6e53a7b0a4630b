"""How far two trainings of one recipe are apart by chance, by metric: calibrated, or assumed until then.

Examples tell how sure a difference of two models is; they do not tell that another seed would have made
another model. Without a noise of training, two replicas of one recipe are told apart, the whole of a
suite rarely, one of its slices nearly always: a slice is one skill, which a seed learns or does not.
"""

from collections.abc import Mapping
from math import hypot, isfinite, sqrt
from typing import NamedTuple

from expectations.promotion.statistics import Estimate
from retune.measures import measure
from retune.outcomes import scorer_of

OF_SHARES = 3  # times the assumed noise, in absolute terms: an answer is right or wrong
MOST = 3  # times the noise of the whole that a slice may have, however many there are


class NoiseFloor(NamedTuple):
    """The standard deviation of a metric's difference between replicas, and whether it is assumed."""

    value: float
    is_assumed: bool = False


def noise_floor(
    metric: str, calibrated: Mapping[str, float], assumed: float, opponent: float, slices: int
) -> NoiseFloor:
    """Return the noise of a metric whose value is `opponent`'s, in a suite of so many `slices`.

    What is assumed is the share `assumed` of the value. Of few replicas the noise of one slice may look
    small by accident, so it is at least what the slices have in the mean. A slice that was not calibrated
    has the noise of the whole times √slices: so much is left of it in their mean.
    """
    whole, _, name = metric.partition("@")
    if not name:
        return _of_whole(metric, calibrated, assumed, opponent)
    alike = [value for key, value in calibrated.items() if key.startswith(f"{whole}@")]
    if alike:
        mean = sqrt(sum(value**2 for value in alike) / len(alike))
        return NoiseFloor(max(mean, calibrated.get(metric, 0.0)))
    of_whole = _of_whole(whole, calibrated, assumed, opponent)
    return of_whole._replace(value=of_whole.value * min(MOST, sqrt(max(slices, 1))))


def _of_whole(
    metric: str, calibrated: Mapping[str, float], assumed: float, opponent: float
) -> NoiseFloor:
    if metric in calibrated:
        return NoiseFloor(calibrated[metric])
    if measure(scorer_of(metric)).is_share:
        return NoiseFloor(OF_SHARES * assumed, is_assumed=True)
    return NoiseFloor(assumed * abs(opponent) if isfinite(opponent) else 0.0, is_assumed=True)


def beside(estimate: Estimate, noise: float, alpha: float) -> float:
    """Return the chance of so large a difference if there is none but that of examples and of training
    together; `estimate` has an interval of 1 - alpha."""
    from scipy.stats import norm

    value, low, high, p, _ = estimate
    if not noise or not isfinite(value):
        return p
    reach = value - low if value > 0 else high - value
    error = hypot(reach / float(norm.isf(alpha / 2)), noise)
    return max(p, float(2 * norm.sf(abs(value) / error)))
