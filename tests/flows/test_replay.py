"""A run made again: its inputs are those that it had, and what came of it is held against what it was."""

import json
import math
import os
from pathlib import Path

import pytest

from flows.recorded import Made, NotTheSame, Recorded
from flows.replay import compared, everything_anew, settings
from retune.home import work
from retune.recipe import Recipe
from retune.records import Pins
from tasks.train.saving import put_in_order

RECIPE = Recipe.parse(
    {
        "name": "sums",
        "model": {"base": "a/b"},
        "dataset": {"source": "c/d"},
        "publishing": {"enabled": True, "repo": "you/sums"},
    }
)
RUN = Recorded(
    run_id="0" * 32,
    run_name="sums one",
    recipe=RECIPE,
    pins=Pins(dataset="d" * 40, model="m" * 40, accepted="earlier"),
    software={},
    machine={},
)
FILES = {"train/adapter": "aa", "merge/model": "bb"}


def test_the_inputs_of_a_replay_are_those_of_the_run():
    pins = RUN.held_to(Pins(dataset="d" * 40, model="m" * 40, accepted="a later one"))
    assert pins == RUN.pins


def test_an_input_that_is_another_by_now_is_named_with_both_versions():
    with pytest.raises(NotTheSame) as refused:
        RUN.held_to(Pins(dataset="e" * 40, model="m" * 40))
    (line,) = [line for line in str(refused.value).splitlines() if "dataset.source" in line]
    assert "d" * 19 in line
    assert "e" * 19 in line
    assert "model.base" not in str(refused.value)


@pytest.mark.parametrize(
    ("then", "now", "noise", "outcome"),
    [
        (Made({"train/final_loss": 1.0}, FILES), Made({"train/final_loss": 1.0}, FILES), {}, "identical"),
        (Made({"a/x": 1.0}, FILES), Made({"a/x": 1.1}, {}), {}, "unknown"),
        (Made({"a/x": 1.0}, FILES), Made({"a/x": 1.1}, {}), {"a/x": 0.06}, "equal"),
        (Made({"a/x": 1.0}, FILES), Made({"a/x": 1.2}, {}), {"a/x": 0.06}, "different"),
        (Made({"a/x": 1.0}, FILES), Made({"a/x": math.nan}, {}), {"a/x": 0.06}, "different"),
        (Made({"a/x": math.nan}, FILES), Made({"a/x": math.nan}, {}), {}, "equal"),
        (Made({"a/x": 1.0}, FILES), Made({}, FILES), {}, "different"),
        (Made({}, {}), Made({}, {}), {}, "equal"),  # nobody can call two missing files the same
    ],
)  # fmt: skip
def test_two_runs_made_the_same_or_not(then, now, noise, outcome):
    assert compared(then, now, noise)[0] == outcome


def test_a_replay_publishes_nothing_and_stands_apart():
    recipe = settings(RECIPE)
    assert not recipe.publishing.enabled
    assert recipe.tracking.experiment == "sums.replays"
    assert recipe.name == "sums"  # it is in the files


def test_everything_is_made_in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("RETUNE_HOME", str(tmp_path))
    monkeypatch.delenv("RETUNE_WORK", raising=False)
    assert work() == tmp_path / "work"
    with everything_anew(RUN) as folder:
        assert work() == folder != tmp_path / "work"
        folder.mkdir()
    assert not folder.exists()
    with pytest.raises(KeyError), everything_anew(RUN):
        folder.mkdir()
        raise KeyError
    assert folder.exists()  # the same replay goes on there
    assert "RETUNE_WORK" not in os.environ


def test_the_settings_of_an_adapter_are_in_order(tmp_path: Path):
    """PEFT keeps them as sets: in another process the same training wrote other bytes."""
    one, other = tmp_path / "one.json", tmp_path / "other.json"
    one.write_text(json.dumps({"r": 8, "target_modules": ["q_proj", "k_proj"]}))
    other.write_text(json.dumps({"target_modules": ["k_proj", "q_proj"], "r": 8}))
    for path in (one, other):
        put_in_order(path)
    assert one.read_bytes() == other.read_bytes()
    assert json.loads(one.read_text())["target_modules"] == ["k_proj", "q_proj"]
    other.write_text(json.dumps({"target_modules": ".*_proj"}))
    put_in_order(other)
    assert json.loads(other.read_text()) == {"target_modules": ".*_proj"}
    put_in_order(tmp_path / "none.json")
