"""The error rates that the statistics promise, by seeded simulations; larger ones are a proof.

Losses are heavy-tailed and correlated between the sides, and count by their tokens; grades are 0 or 1.
"""

import functools
import math

import numpy as np
import polars as pl
import pytest
from scipy.stats import binom, norm

from expectations.promotion import statistics
from expectations.promotion.contest import contest
from expectations.promotion.statistics import (
    examples_to_differ,
    examples_to_equal,
    holm,
    mean_difference,
    share_difference,
    smallest_effect,
)
from retune.recipe import Promotion

ALPHA, RESAMPLES = 0.05, 500
RULE = Promotion(resamples=2000)
shares = functools.cache(share_difference)  # few pairs of counts are different


def losses(generator, count, effect=0.0):
    """Return the losses of opponent and candidate on the same rows, and the rows' tokens.

    Rows differ by far more than models; either model adds something of its own, with heavy tails.
    """
    level = generator.lognormal(0, 0.6, count)
    own = 0.05 * generator.standard_t(3, (2, count)) * level
    tokens = np.clip(generator.lognormal(4.5, 1, count), 5, 2000)
    return level + own[0], level + own[1] - effect, tokens


def table(values, scorer="loss", weight=1.0, slices="a"):
    return pl.DataFrame(
        {
            "suite": "held_out",
            "slice": slices,
            "example": [f"{number:06d}" for number in range(len(values))],
            "scorer": scorer,
            "value": values.astype(float),
            "weight": weight,
        }
    )


def compared(opponent, candidate, rule=RULE, noise=None, **more):
    return contest(table(candidate, **more), table(opponent, **more), rule, noise or {})


def at_most_alpha(count, trials, alpha=ALPHA):
    """Tell whether so few false alarms are what a rate of at most alpha gives, but for one in 1000."""
    return count <= binom.isf(0.001, trials, alpha)


SIZES = [8, 20, *(pytest.param(count, marks=pytest.mark.proof) for count in (100, 500))]


@pytest.mark.parametrize("count", SIZES)
def test_two_equal_models_are_not_told_apart_by_losses(count):
    """1,000 pairs of models of which neither is better; one in forty may look better by accident."""
    generator = np.random.default_rng(count)
    better = worse = 0
    for _ in range(1000):
        opponent, candidate, tokens = losses(generator, count)
        one = mean_difference(opponent - candidate, tokens, ALPHA, RESAMPLES, 0)
        better += one.p <= ALPHA and one.low > 0
        worse += one.p <= ALPHA and one.high < 0
    assert at_most_alpha(better, 1000, 0.025)
    assert at_most_alpha(better + worse, 1000)


@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
@pytest.mark.parametrize("count", [20, 100, 500])
def test_two_equal_models_are_not_told_apart_by_shares(count, share):
    generator = np.random.default_rng(count)
    hard = generator.random((1000, count))
    sides = [np.where(generator.random((1000, count)) < 0.3, generator.random((1000, count)), hard)
             < share for _ in range(2)]  # fmt: skip
    won = (sides[0] & ~sides[1]).sum(1)
    lost = (sides[1] & ~sides[0]).sum(1)
    drawn = [shares(int(w), int(x), count, ALPHA) for w, x in zip(won, lost, strict=True)]
    assert at_most_alpha(sum(one.p <= ALPHA for one in drawn), 1000)
    assert at_most_alpha(sum(one.low > 0 or one.high < 0 for one in drawn), 1000, 0.07)


def test_an_a_a_pair_is_not_promoted():
    """The whole way, 200 times."""
    generator = np.random.default_rng(5)
    better = 0
    for _ in range(200):
        opponent, candidate, tokens = losses(generator, 40)
        better += compared(opponent, candidate, weight=tokens)[0].outcome == "better"
    assert at_most_alpha(better, 200, 0.025)


@pytest.mark.parametrize("sampling", [0.2, 1.0, 5.0])
def test_replicas_of_one_recipe_are_not_told_apart_beside_the_calibrated_noise(sampling):
    """They do differ, by noise; whether examples are few or many, that promotes none."""
    generator, noise = np.random.default_rng(9), 0.01
    rule = Promotion(resamples=2000, margins={"loss": "2σ"})
    better = 0
    for _ in range(150):
        level = generator.lognormal(0, 0.5, 30)
        seed = generator.normal(0, noise)
        own = generator.normal(0, sampling * noise * math.sqrt(30), 30)
        found = compared(level, level - seed - own, rule, {"held_out/loss": noise})
        better += found[0].outcome == "better"
    assert at_most_alpha(better, 150, 0.025)


@pytest.mark.parametrize("effect", [0.08, -0.08])
def test_a_planted_difference_of_losses_is_found_with_the_stated_power(effect):
    generator = np.random.default_rng(3)
    wide = losses(generator, 50_000, effect)
    spread = mean_difference(wide[0] - wide[1], wide[2], ALPHA, RESAMPLES, 0).spread
    count = examples_to_differ(effect, 0.01, spread, 0.0, ALPHA)
    found = 0
    for _ in range(100):
        opponent, candidate, tokens = losses(generator, count, effect)
        one = mean_difference(opponent - candidate, tokens, ALPHA, RESAMPLES, 0)
        found += one.p <= ALPHA and abs(one.value) > 0.01 and one.value * effect > 0
    assert found >= binom.isf(0.999, 100, 0.8)


@pytest.mark.parametrize(("won", "lost"), [(0.12, 0.03), (0.3, 0.2), (0.02, 0.15)])
def test_a_planted_difference_of_shares_is_found_with_the_stated_power(won, lost):
    generator, effect = np.random.default_rng(4), won - lost
    count = examples_to_differ(
        effect, 0.05, math.sqrt(won + lost - effect**2), 0.0, ALPHA, is_share=True
    )
    pairs = generator.multinomial(count, [won, lost, 1 - won - lost], 300)
    drawn = [shares(int(a), int(b), count, ALPHA) for a, b, _ in pairs]
    found = sum(one.p <= ALPHA and abs(one.value) > 0.05 for one in drawn)
    assert found >= binom.isf(0.999, 300, 0.8)


def test_equals_are_found_equal_with_the_stated_power():
    generator, margin = np.random.default_rng(6), 0.05
    count = examples_to_equal(0.01, margin, math.sqrt(0.1), ALPHA)
    pairs = generator.multinomial(count, [0.055, 0.045, 0.9], 300)
    found = 0
    for a, b, _ in pairs:
        one = shares(int(a), int(b), count, ALPHA)
        found += -margin <= one.low and one.high <= margin
    assert found >= binom.isf(0.999, 300, 0.8)


@pytest.mark.parametrize("count", [100, 300])
def test_at_the_border_of_the_margin_few_shares_are_called_equivalent(count):
    generator, margin = np.random.default_rng(count), 0.1
    pairs = generator.multinomial(count, [0.05, 0.15, 0.8], 1000)
    false = 0
    for a, b, _ in pairs:
        one = shares(int(a), int(b), count, ALPHA)
        false += -margin <= one.low and one.high <= margin
    assert at_most_alpha(false, 1000)


@pytest.mark.parametrize("count", [30, pytest.param(300, marks=pytest.mark.proof)])
def test_at_the_border_of_the_margin_few_losses_are_called_equivalent(count):
    generator, margin, false = np.random.default_rng(count), 0.05, 0
    for _ in range(500):
        opponent, candidate, tokens = losses(generator, count, -margin)
        one = mean_difference(opponent - candidate, tokens, ALPHA, RESAMPLES, 0)
        false += -margin <= one.low and one.high <= margin
    assert at_most_alpha(false, 500)


def test_ten_slices_keep_the_error_of_the_family():
    """Of ten slices that do not differ, one is called worse in at most one of twenty runs."""
    generator = np.random.default_rng(8)
    alarms = uncorrected = 0
    for _ in range(100):
        family = []
        for _ in range(10):
            opponent, candidate, tokens = losses(generator, 15)
            family.append(mean_difference(opponent - candidate, tokens, ALPHA, 1000, 0).p)
        alarms += min(holm(family)) <= ALPHA
        uncorrected += min(family) <= ALPHA
    assert at_most_alpha(alarms, 100)
    assert uncorrected > 15  # what the correction is for


def test_one_bad_slice_of_ten_is_found_and_no_other():
    generator = np.random.default_rng(8)
    opponent, candidate, tokens = losses(generator, 400)
    slices = np.array([f"s{number % 10}" for number in range(400)])
    candidate = candidate + 0.4 * (slices == "s3")
    found = compared(opponent, candidate, weight=tokens, slices=slices)[1:]
    assert len(found) == 10
    assert [one.metric for one in found if one.outcome == "worse"] == ["held_out/loss@s3"]


def test_holm_is_that_of_the_textbook():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.9, 0.9]) == [1.0, 1.0]


@pytest.mark.parametrize(
    ("won", "lost", "count"), [(0, 0, 20), (9, 1, 60), (0, 3, 30), (40, 1, 50)]
)
def test_tangos_interval_is_where_the_score_test_says_so(won, lost, count):
    """The likelihood is maximised here by search, not by the closed form."""
    one = share_difference(won, lost, count, ALPHA)
    for bound in (one.low, one.high):
        if abs(bound) > 0.999:
            continue
        shares = np.linspace(max(0, -bound), (1 - bound) / 2, 200_001)[1:-1]
        rest = 1 - 2 * shares - bound
        likelihood = won * np.log(shares + bound) + lost * np.log(shares)
        likelihood = likelihood + (count - won - lost) * np.log(np.maximum(rest, 1e-300))
        share = shares[np.argmax(likelihood)] if lost else max(0.0, -bound)
        if not lost and not won:
            share = max(0.0, -bound)
        variance = count * (2 * share + bound - bound**2)
        assert abs(won - lost - count * bound) / math.sqrt(variance) == pytest.approx(
            1.96, abs=0.01
        )


def test_no_difference_leaves_the_interval_that_tango_states():
    square = norm.isf(0.025) ** 2
    one = share_difference(0, 0, 50, ALPHA)
    assert (one.low, one.high) == pytest.approx((-square / (50 + square), square / (50 + square)))
    assert one.p == 1


def test_many_examples_take_the_same_interval_by_the_central_limit(monkeypatch):
    opponent, candidate, tokens = losses(np.random.default_rng(1), 3000, 0.02)
    drawn = mean_difference(opponent - candidate, tokens, ALPHA, RESAMPLES, 0)
    monkeypatch.setattr(statistics, "LARGE", 1000)
    normal = mean_difference(opponent - candidate, tokens, ALPHA, RESAMPLES, 0)
    assert normal.value == drawn.value
    assert normal.high - normal.low == pytest.approx(drawn.high - drawn.low, rel=0.15)


def test_the_smallest_effect_is_what_needs_so_many_examples():
    for noise, margin in ((0.0, 0.0), (0.01, 0.0), (0.01, 0.02), (0.0, 0.05)):
        effect = smallest_effect(400, 0.3, margin, noise, ALPHA)
        needed = examples_to_differ(effect, margin, 0.3, noise, ALPHA)
        assert needed == pytest.approx(402, abs=1)
    assert smallest_effect(5, 0.3, 0, 0, ALPHA) == math.inf
    assert examples_to_differ(0.0, 0.0, 0.3, 0.0, ALPHA) is None
    assert examples_to_differ(0.015, 0.0, 0.3, 0.01, ALPHA) is None  # within the noise for ever
