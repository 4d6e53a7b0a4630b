"""Unsloth is imported ahead in the child that will train, where it will train and where there is room."""

import pytest

from retune.recipe import Recipe
from retune.records import Pins
from tasks.train import task as stage

VALUES = {"name": "r", "model": {"base": "b"}, "dataset": {"source": "d.jsonl"}}
PINS = Pins(dataset="sha256:0", model="abcdef")


@pytest.fixture
def calls(monkeypatch, tmp_path):
    """What is prepared and dismissed on a machine with a GPU and many cores."""
    seen = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(stage, "gpus", lambda: ("NVIDIA H100",))
    monkeypatch.setattr(stage, "cores", lambda: 16)
    monkeypatch.setattr(stage, "free_memory", lambda: 64 << 30)
    monkeypatch.setattr(
        stage, "prepare_child", lambda child, env, hub: seen.append((child.name, sorted(env), hub))
    )
    monkeypatch.setattr(stage, "dismiss_child", lambda child: seen.append(child.name))
    return seen


def prepare(**training) -> None:
    with stage.prepared(Recipe.parse(VALUES | {"training": training}), PINS):
        pass


def test_the_child_that_will_train_is_prepared_and_never_left_behind(calls):
    prepare()
    begun = ("unsloth_child.py", ["UNSLOTH_COMPILE_LOCATION"], True)
    assert calls == [begun, "unsloth_child.py"]
    calls.clear()
    recipe = Recipe.parse(VALUES)
    with pytest.raises(ZeroDivisionError), stage.prepared(recipe, PINS):
        raise ZeroDivisionError
    assert calls == [begun, "unsloth_child.py"]


@pytest.mark.parametrize(
    ("change", "training"),
    [
        ({"gpus": lambda: ()}, {}),
        ({"cores": lambda: stage.FEWEST_CORES - 1}, {}),
        ({}, {"backend": "trl"}),
        ({"free_memory": lambda: stage.LEAST_MEMORY - 1}, {}),
    ],
)
def test_nothing_is_prepared_that_helps_nobody(calls, monkeypatch, change, training):
    for name, value in change.items():
        monkeypatch.setattr(stage, name, value)
    prepare(**training)
    assert [call for call in calls if isinstance(call, tuple)] == []
