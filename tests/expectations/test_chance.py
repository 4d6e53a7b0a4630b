"""Limits on shares of few answers: noise passes, what is broken does not, at the rate that is said."""

import random

import pytest

from expectations.chance import SIGNIFICANCE, Drop, share_p_value, share_within


def samples(of: int, lost: float, gained: float, count: int = 400) -> list[Drop]:
    """Return `count` samples of answers that are lost and gained at these rates."""
    rng, changes = random.Random(7), []
    for _ in range(count):
        drawn = [rng.random() for _ in range(of)]
        losses = sum(value < lost for value in drawn)
        changes.append(Drop(losses, sum(lost <= v < lost + gained for v in drawn), of))
    return changes


def refused(changes: list[Drop], limit: float) -> float:
    return sum(not change.within(limit) for change in changes) / len(changes)


@pytest.mark.parametrize("of", [8, 45, 200])
@pytest.mark.parametrize(("lost", "gained", "limit"), [(0.05, 0, 0.05), (0.15, 0.1, 0.05)])
def test_what_is_at_the_limit_is_refused_as_rarely_as_is_said(of, lost, gained, limit):
    assert refused(samples(of, lost, gained), limit) <= SIGNIFICANCE + 0.03


@pytest.mark.parametrize(
    ("of", "lost", "gained"), [(8, 0.8, 0), (45, 0.3, 0), (200, 0.15, 0), (200, 0.35, 0.1)]
)
def test_what_is_beyond_the_limit_is_refused(of, lost, gained):
    assert refused(samples(of, lost, gained), 0.05) >= 0.85


def test_without_gains_it_is_the_binomial_test():
    assert Drop(3, 0, 45).p_value(0.05) == pytest.approx(share_p_value(3, 45, 0.05))
    assert Drop(3, 0, 45).p_value(0.05) == pytest.approx(0.3923, abs=1e-4)


@pytest.mark.parametrize("limit", [0.0, 0.05, 1.0])
@pytest.mark.parametrize("change", [Drop(0, 0, 1), Drop(0, 3, 3), Drop(4, 4, 8)])
def test_what_is_no_loss_is_within_every_limit(change, limit):
    assert change.within(limit)
    assert "p =" not in change.words(limit)


def test_a_limit_of_nothing_is_one():
    assert not Drop(1, 0, 500).within(0)
    assert not share_within(1, 500, 0)
    assert share_within(0, 500, 0)
    assert share_within(0, 0, 0.001)


def test_a_row_more_than_the_limit_allows_of_few_is_chance():
    assert share_within(1, 500, 0.001)
    assert not share_within(4, 500, 0.001)
    assert share_within(14, 10_000, 0.001)
    assert not share_within(17, 10_000, 0.001)
