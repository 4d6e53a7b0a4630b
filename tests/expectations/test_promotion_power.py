"""What a recipe's suites can show, and the margins that wait for a calibration."""

import pytest

from expectations.promotion.contest import NotCalibrated, require_noise
from expectations.promotion.power import NO_RUN, detectable, last_run
from retune.recipe import Promotion
from tests.expectations.made_up import side, written

RULE = Promotion(resamples=2000, assumed_noise=0.01)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    path = tmp_path_factory.mktemp("outcomes") / "outcomes.parquet"
    return written(path, side("base", loss=1.25, seed=1), side("tuned", seed=2))


def told(rule=RULE, examples=None, last=NO_RUN, noise=None):
    return {one.metric: one for one in detectable(rule, examples or {}, last, noise or {})}


def test_before_the_first_run_little_is_known():
    assert told()["held_out/loss"].effect == "unknown"
    loss = told(examples={"held_out/loss": 200, "battery/passed": 300})
    assert "first run" in loss["held_out/loss"].means
    # Two independent models that are right by half: 0.84 errors of √(0.5/300) above margin 5, or above
    # 1.96 deviations of the error and of the assumed noise of 3 points together.
    assert loss["battery/passed"].effect == "13.4 points"
    quiet = told(Promotion(assumed_noise=0), {"battery/passed": 300})
    assert quiet["battery/passed"].effect == "11.4 points"
    assert "at worst" in loss["battery/passed"].means


def test_the_last_run_tells_more(outcomes):
    last = last_run(outcomes, RULE)
    found = told(last=last)
    assert found["held_out/loss"].effect.endswith("nats per token")
    assert float(found["held_out/loss"].effect.split()[0]) < 0.05
    assert "300 examples, as the last run varied" in found["held_out/loss"].means
    more = told(examples={"held_out/loss": 30}, last=last)["held_out/loss"]
    assert float(more.effect.split()[0]) > float(found["held_out/loss"].effect.split()[0])
    assert next(iter(found)) == "held_out/loss"


def test_what_is_too_few_says_so(outcomes):
    assert "nothing can be told" in told(examples={"incidents/passed": 4})["incidents/passed"].means
    assert told(examples={"tiny/passed": 8})["tiny/passed"].effect != "none"
    assert told(Promotion(wins=("x/elegance",))) == {}


def test_a_multiple_needs_a_noise():
    rule = Promotion(margins={"held_out/loss": "2σ"})
    with pytest.raises(NotCalibrated, match="`retune calibrate RECIPE`"):
        require_noise(rule, {})
    require_noise(rule, {"held_out/loss": 0.01})
    by_scorer = Promotion(margins={"exact_match": "1.5σ"})
    require_noise(by_scorer, {"held_out/exact_match": 0.01})
    with pytest.raises(NotCalibrated, match=r"1\.5σ of exact_match"):
        require_noise(by_scorer, {"held_out/loss": 0.01})
    require_noise(RULE, {})
