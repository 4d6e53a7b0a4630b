"""The noise of training, kept in MLflow by what it holds for."""

from math import sqrt

import pytest

from flows.calibrate import replica
from retune.calibration import means, noise_of, store_noise, stored_noise
from retune.recipe import Recipe
from retune.records import Pins
from retune.tracking import start_run
from tests.databases import furnish_mlflow, working_in
from tests.expectations.made_up import side, written

VALUES = {"name": "sums", "model": {"base": "b"}, "dataset": {"source": "d.jsonl"}}
RECIPE = Recipe.parse(VALUES)
PROBES = {"name": "mine", "path": "mine.jsonl"}
PINS = Pins(dataset="sha256:d", model="sha256:m")


@pytest.fixture(autouse=True)
def at_home(monkeypatch, tmp_path):
    with working_in(monkeypatch, furnish_mlflow(tmp_path / "home")):
        yield


def test_looking_makes_no_store(tmp_path, monkeypatch):
    monkeypatch.setenv("RETUNE_HOME", str(tmp_path / "new"))
    assert stored_noise(RECIPE, PINS) == {}
    assert not (tmp_path / "new").exists()


def test_the_newest_calibration_is_found_by_what_it_holds_for():
    assert stored_noise(RECIPE, PINS) == {}
    for value in (0.5, 0.01):
        with start_run(RECIPE, "calibration", {}) as run:
            store_noise(run, RECIPE, PINS, {"held_out/loss": value})
    assert stored_noise(RECIPE, PINS) == {"held_out/loss": 0.01}
    tomorrow = PINS.model_copy(update={"dataset": "sha256:e"})
    assert stored_noise(RECIPE, tomorrow) == {"held_out/loss": 0.01}
    assert stored_noise(RECIPE, PINS.model_copy(update={"model": "sha256:n"})) == {}
    others = Recipe.parse(VALUES | {"evaluation": {"loss_rows": 9}})
    assert stored_noise(others, PINS) == {}


@pytest.mark.parametrize(
    ("evaluation", "suites", "is_the_same"),
    [
        ({"suites": [PROBES]}, ("sha256:p",), True),
        ({"suites": [PROBES | {"path": "elsewhere.jsonl"}]}, ("sha256:p",), True),
        ({"suites": [PROBES], "incidents": "i.jsonl"}, ("sha256:p", "sha256:i"), True),
        ({"suites": [PROBES]}, ("sha256:q",), False),
        ({"suites": [PROBES | {"max_new_tokens": 3}]}, ("sha256:p",), False),
        ({"suites": [PROBES | {"name": "yours"}]}, ("sha256:p",), False),
        ({}, (), False),
        ({"incidents": "i.jsonl"}, ("sha256:p",), False),
        ({"suites": [PROBES], "battery_rows": 300}, ("sha256:p",), False),
        ({"suites": [PROBES], "battery": False}, ("sha256:p",), False),
    ],
)
def test_a_calibration_is_of_the_suites_that_it_was_measured_by(evaluation, suites, is_the_same):
    measured = Recipe.parse(VALUES | {"evaluation": {"suites": [PROBES]}})
    with start_run(measured, "calibration", {}) as run:
        pins = PINS.model_copy(update={"suites": ("sha256:p",)})
        store_noise(run, measured, pins, {"mine/passed": 0.02})
    others = Recipe.parse(VALUES | {"evaluation": evaluation})
    noise = stored_noise(others, PINS.model_copy(update={"suites": suites}))
    assert noise == ({"mine/passed": 0.02} if is_the_same else {})


def test_the_noise_is_that_of_a_difference():
    noise = noise_of([{"a/loss": 1.0, "b/loss": 1.0}, {"a/loss": 1.2}, {"a/loss": 1.4}])
    assert noise == {"a/loss": pytest.approx(sqrt(2) * 0.2)}


def test_means_are_weighted_and_count_an_example_once(tmp_path):
    sides = side("tuned", rows=40)
    once = means(written(tmp_path / "a.parquet", sides), "tuned")
    twice = means(written(tmp_path / "b.parquet", sides, sides, side("base", loss=9)), "tuned")
    assert once == pytest.approx(twice)
    losses = [outcome for outcome in sides if "loss" in outcome.grades]
    total = sum(outcome.grades["loss"] * outcome.tokens for outcome in losses)
    mean = total / sum(outcome.tokens for outcome in losses)
    assert once["held_out/loss"] == pytest.approx(mean)
    code = [outcome for outcome in losses if outcome.slice == "code"]
    total = sum(outcome.grades["loss"] * outcome.tokens for outcome in code)
    mean = total / sum(outcome.tokens for outcome in code)
    assert once["held_out/loss@code"] == pytest.approx(mean)


def test_replicas_differ_by_seed_alone_and_train_their_share():
    recipe = Recipe.parse(VALUES | {"training": {"seed": 7, "epochs": 2, "max_steps": 10}})
    one = replica(recipe, 2, 0.25)
    assert (one.training.seed, one.training.epochs, one.training.max_steps) == (9, 0.5, 2)
    same = {"seed": 7, "epochs": 2.0, "max_steps": 10}
    assert one.model_copy(update={"training": one.training.model_copy(update=same)}) == recipe
    assert replica(RECIPE, 1, 0.25).training.max_steps is None
