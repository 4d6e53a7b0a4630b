"""What a recipe's suites can show at all: the smallest difference that so many examples tell."""

from collections.abc import Mapping
from math import isfinite, sqrt
from pathlib import Path
from typing import NamedTuple

from expectations.promotion.contest import NotCalibrated, contest, direction, margin
from expectations.promotion.noise import noise_floor
from expectations.promotion.statistics import FEWEST, POWER, smallest_effect
from retune.measures import measure
from retune.outcomes import BASE, TUNED, of_side, read_grades, scorer_of
from retune.recipe import Promotion

# Two models that know nothing of each other, each right by half: no paired grades vary more.
WORST_SHARE = sqrt(0.5)


class Detectable(NamedTuple):
    """The smallest true difference of a metric that is found with the power of POWER, in words, and
    by what that is known."""

    metric: str
    effect: str
    means: str


class LastRun(NamedTuple):
    """What the last run tells of the next: how many examples each metric has, how much one example's
    difference varies, and the values."""

    examples: Mapping[str, int]
    spreads: Mapping[str, float]
    values: Mapping[str, float]


NO_RUN = LastRun({}, {}, {})


def last_run(outcomes: Path, rule: Promotion) -> LastRun:
    """Return what a run's outcomes tell: its candidate beside its base, which differ by more than a
    candidate and its champion do."""
    grades = read_grades(outcomes)
    tuned, base = of_side(grades, TUNED), of_side(grades, BASE)
    plain = rule.model_copy(update={"margins": {}, "slices": False})
    found = contest(tuned, base, plain, {})
    return LastRun(
        {one.metric: one.examples for one in found},
        {one.metric: one.spread for one in found if one.spread},
        {one.metric: one.candidate for one in found},
    )


def detectable(
    rule: Promotion, examples: Mapping[str, int], last: LastRun, noise: Mapping[str, float]
) -> list[Detectable]:
    """Return the smallest detectable difference of each metric: those that must be better first.

    `examples` are the numbers known beforehand, by metric; else the last run's count.
    """
    known = {**last.examples, **examples}
    names = dict.fromkeys((*rule.wins, *known))
    return [
        _detectable(name, known.get(name), rule, last, noise) for name in names if _counts(name)
    ]


def _counts(metric: str) -> bool:
    try:
        return bool(direction(scorer_of(metric)))
    except KeyError:  # of a recipe's wins; the judge says that nothing was graded by it
        return False


def _detectable(
    metric: str, examples: int | None, rule: Promotion, last: LastRun, noise: Mapping[str, float]
) -> Detectable:
    if examples is None:
        return Detectable(metric, "unknown", "the number of examples is known after the first run")
    counted = f"{examples:,} examples"
    if examples < FEWEST:
        return Detectable(metric, "none", f"{counted}, of which nothing can be told")
    entry = measure(scorer_of(metric))
    is_share = entry.is_share
    spread = last.spreads.get(metric) or (WORST_SHARE if is_share else None)
    if spread is None:
        return Detectable(metric, "unknown", f"{counted}; how much they vary shows the first run")
    try:
        limit = margin(metric, rule, noise, last.values.get(metric, 0.0))
    except NotCalibrated:
        return Detectable(metric, "unknown", f"{counted}; its margin waits for `retune calibrate`")
    floor = noise_floor(metric, noise, rule.assumed_noise, last.values.get(metric, 0.0), 1)
    effect = smallest_effect(examples, spread, limit, floor.value, rule.alpha)
    by = "as the last run varied" if metric in last.spreads else "at worst"
    if not isfinite(effect) or (is_share and effect > 1):
        return Detectable(metric, "none", f"{counted}, {by}")
    words = f"{100 * effect:.1f} points" if is_share else entry.text(effect)
    return Detectable(metric, words, f"with power {POWER:g}: {counted}, {by}")
