"""The record of a score column, and the distances between two columns."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import ks_2samp

from expectations.data.measures import NOTHING, Asked, measures
from expectations.data.scores import Distribution, distribution, ks, psi
from retune.recipe import Validation

FINITE = st.floats(-1e6, 1e6, allow_nan=False, allow_subnormal=False)
# Few different values, so that ties are common, or any.
COLUMNS = st.one_of(
    arrays(np.float64, st.integers(1, 60), elements=st.integers(0, 4).map(float)),
    arrays(np.float64, st.integers(1, 60), elements=FINITE),
)


def normal(count: int, mean: float = 3.0, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, 0.7, count)


def bf16(scores: np.ndarray) -> np.ndarray:
    """Round towards zero to bfloat16."""
    return (scores.astype(np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32).astype(float)


def test_a_record_counts_averages_and_sorts():
    record = distribution(np.array([4.0, 1.0, 2.0, 2.0]))
    assert (record.count, record.mean, record.distinct) == (4, 2.25, 3)
    assert record.quantiles[0] == record.quantiles[250] == 1.0
    assert record.quantiles[251] == record.quantiles[500] == record.quantiles[750] == 2.0
    assert record.quantiles[751] == record.quantiles[1000] == 4.0


def test_quantiles_are_exact_where_floats_would_round():
    # 0.07 * 100 is 7.000000000000001 in floats, and the quantile at 0.07 is still the 7th score.
    record = distribution(np.arange(1, 101))
    assert [record.quantiles[10 * percent] for percent in range(1, 101)] == list(range(1, 101))


def test_an_empty_column_has_no_record():
    assert distribution(np.array([])) is None
    assert distribution(pl.Series([], dtype=pl.Float64)) is None


def test_a_polars_column_gives_the_same_record():
    scores = normal(500)
    assert distribution(pl.Series(scores)) == distribution(scores)


def test_a_record_survives_json():
    record = distribution(normal(2000))
    text = record.model_dump_json()
    assert Distribution.model_validate_json(text) == record
    assert len(text) < 25_000


@pytest.mark.parametrize(
    ("scores", "share"),
    [
        (bf16(normal(5000)), 1.0),
        (normal(5000), 0.0),
        (normal(5000).astype(np.float32), 0.0),
        (np.array([1.1, 2.3, 3.7, 4.2]), 0.0),
        (np.array([0.5, 2.0, 255.0, 257.0]), 0.75),
        (np.array([1e300, -1e300]), 0.0),
    ],
    ids=["bf16", "float64", "float32", "decimals", "whole numbers", "beyond float32"],
)
def test_bf16_leaves_its_mark(scores, share):
    assert distribution(scores).bf16_share == pytest.approx(share, abs=0.001)


def test_psi_of_known_shares():
    # The reference has one tenth in each bin; the scores 0.2, 0 and eight times 0.1.
    reference = distribution(np.arange(100_000) % 10)
    scores = np.concatenate([np.zeros(10_000), np.arange(100_000) % 10])
    scores = scores[scores != 1]
    by_hand = 0.1 * np.log(0.2 / 0.1) + 0.1 * np.log(0.1 / (0.05 / 100_000))
    assert psi(reference, scores) == pytest.approx(by_hand, rel=0.02)


def test_psi_of_half_and_half():
    reference = distribution(np.repeat([0.0, 1.0], 50_000))
    scores = np.repeat([0.0, 1.0], [30_000, 70_000])
    by_hand = -0.2 * np.log(0.3 / 0.5) + 0.2 * np.log(0.7 / 0.5)
    assert psi(reference, scores) == pytest.approx(by_hand, rel=0.01)


def test_ks_of_known_distances():
    reference = distribution(np.arange(1000))
    assert ks(reference, np.arange(1000) + 250) == pytest.approx(0.25, abs=0.001)
    assert ks(reference, np.array([500])) == pytest.approx(0.5, abs=0.001)
    assert ks(reference, np.array([7000])) == 1.0


def test_the_same_distribution_is_near():
    reference = distribution(normal(100_000))
    assert psi(reference, normal(50_000, seed=1)) < 0.002
    assert ks(reference, normal(50_000, seed=1)) < 0.01


@pytest.mark.parametrize(
    ("shift", "moves"), [(0.01, False), (-0.01, False), (0.5, True), (-0.5, True)]
)
@pytest.mark.parametrize("rounded", [lambda x: x, bf16, lambda x: x.round(1)])
def test_a_shift_is_seen_whether_scores_are_rounded_or_not(shift, moves, rounded):
    reference = distribution(rounded(normal(20_000)))
    shifted = rounded(normal(20_000, seed=1) + shift)
    assert (psi(reference, shifted) > 0.25) == moves
    assert (ks(reference, shifted) > 0.15) == moves


@pytest.mark.parametrize("factor", [1 / 5, 100, -1])
def test_another_scale_is_far_away(factor):
    reference = distribution(np.clip(normal(5000), 0, 5))
    rescaled = np.clip(normal(5000, seed=1), 0, 5) * factor
    assert psi(reference, rescaled) > 2
    assert ks(reference, rescaled) > 0.9


@pytest.mark.parametrize("other", [1.0, 5.0])
def test_a_constant_that_moves_is_seen_on_either_side(other):
    reference = distribution(np.full(500, 3.0))
    assert psi(reference, np.full(500, 3.0)) == 0
    assert ks(reference, np.full(500, 3.0)) == 0
    assert psi(reference, np.full(500, other)) > 2
    assert ks(reference, np.full(500, other)) == 1


def test_columns_of_other_sizes_but_equal_shares_are_equal():
    reference = distribution(np.tile([1.0, 2.0, 3.0, 4.0], 25_000))
    assert psi(reference, np.array([1.0, 2.0, 3.0, 4.0])) < 1e-5
    assert psi(distribution(np.array([3.0])), np.full(100_000, 3.0)) == 0


def test_a_million_scores_are_their_own_reference():
    scores = normal(1_000_000)
    reference = distribution(scores)
    assert psi(reference, scores) < 1e-3
    assert ks(reference, scores) < 1e-3


@given(COLUMNS)
def test_a_column_is_near_itself(scores):
    record = distribution(scores)
    assert 0 <= psi(record, scores) < 1e-3
    assert 0 <= ks(record, scores) <= 1 / 1001 + 1e-12


@given(COLUMNS, COLUMNS)
def test_distances_have_their_range(one, other):
    assert 0 <= ks(distribution(one), other) <= 1
    assert 0 <= psi(distribution(one), other) < np.inf


@pytest.mark.filterwarnings("ignore:ks_2samp")  # about its p-value, which is not used
@given(COLUMNS, COLUMNS)
def test_ks_is_within_a_thousandth_of_the_exact_distance(one, other):
    exact = ks_2samp(one, other).statistic
    assert ks(distribution(one), other) == pytest.approx(exact, abs=1 / 1001 + 1e-12)


@given(COLUMNS)
def test_the_order_of_scores_does_not_matter(scores):
    assert distribution(scores[::-1]) == distribution(scores)


@given(COLUMNS)
def test_quantiles_are_scores_in_order(scores):
    record = distribution(scores)
    assert set(record.quantiles) <= set(scores.tolist())
    assert list(record.quantiles) == sorted(record.quantiles)
    assert (record.quantiles[0], record.quantiles[-1]) == (scores.min(), scores.max())


def asked_of(scores, reference=None, asked=NOTHING, **settings) -> dict[str, float]:
    """Return what the dataset expectations judge of sound rows with these scores."""
    count = len(scores)
    table = pl.DataFrame(
        {
            "disposition": ["accepted"] * count,
            "source_id": [1] * count,
            "score": scores,
            "sound_score": scores,
        },
        schema_overrides={"score": pl.Float64, "sound_score": pl.Float64},
    )
    return measures(table.lazy(), Validation(**settings), reference, asked)


def test_one_value_for_all_rows_is_measured_if_there_are_enough():
    assert asked_of([3.5] * 20)["score_mode_share"] == 1
    assert "score_mode_share" not in asked_of([3.5] * 19)
    assert asked_of([3.0] * 30 + [4.0] * 10)["score_mode_share"] == 0.75
    assert "score_mode_share" not in asked_of([None] * 40)


def test_probabilities_on_a_long_scale_are_measured_if_they_can_be_told():
    sigmoid = list(np.random.default_rng(0).uniform(0, 1, 100))
    assert asked_of(sigmoid)["score_unit_share"] == 1
    assert "score_unit_share" not in asked_of(sigmoid[:99])
    assert "score_unit_share" not in asked_of(sigmoid, score_max=1)
    # What the classifier of this recipe said is on its scale; so is what was accepted before.
    assert "score_unit_share" not in asked_of(sigmoid, asked=Asked(scored=100))
    assert "score_unit_share" not in asked_of(sigmoid, distribution(np.array(sigmoid)))
    other = distribution(np.random.default_rng(1).normal(3, 0.5, 400))
    assert asked_of(sigmoid, other)["score_unit_share"] == 1


def test_low_scores_are_not_taken_for_probabilities():
    """A classifier of 0 to 6 gives short, simple conversations about 0.6, but not within 0 to 1."""
    low = np.random.default_rng(0).normal(0.6, 0.3, 400)
    limit = Validation().max_unit_score_share
    assert asked_of(list(np.clip(low, 0, None)))["score_unit_share"] < limit
    assert asked_of(list(np.random.default_rng(0).uniform(1, 4, 400)))["score_unit_share"] < limit
