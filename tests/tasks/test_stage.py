"""A stage whose output another run makes at the same time."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

import pytest

from retune.building import building
from retune.outputs import Output, Step
from retune.recipe import Recipe
from retune.time_limit import StageTimeout
from tasks import stage as stages
from tasks.stage import Stage, stage

STEP = Step(stage="sample", key={"of": "two runs"})


class Made(Output):
    by: str


@pytest.fixture
def recipe(tmp_path, monkeypatch) -> Recipe:
    monkeypatch.setenv("RETUNE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(stages, "LOOK", 0.01)
    return Recipe.parse({"name": "r", "model": {"base": "b"}, "dataset": {"source": "d"}})


@stage("sample")
def sample(recipe: Recipe, step: Step) -> Made:
    with building(step) as build:
        return build.finish(Made, by=recipe.name)


@contextmanager
def another_run(fails: bool, waits: Event) -> Iterator[None]:
    """Build the output in another thread, until somebody waits for it."""
    begun = Event()

    def make() -> None:
        try:
            with building(STEP) as build:
                begun.set()
                assert waits.wait(60)
                if fails:
                    raise InterruptedError
                build.finish(Made, by="another")
        except InterruptedError:
            pass

    thread = Thread(target=make)
    thread.start()
    assert begun.wait(60)
    yield
    thread.join()


@pytest.mark.parametrize("fails", [False, True], ids=["which ends", "which fails"])
def test_it_is_waited_for(recipe, monkeypatch, fails):
    waits, said = Event(), []

    def tell(message: str) -> None:
        said.append(message)
        if message.startswith("waits for "):
            waits.set()

    monkeypatch.setattr(stages, "_tell", tell)
    assert isinstance(sample, Stage)
    with another_run(fails, waits):
        made = sample.fn(recipe=recipe, step=STEP)
    if fails:
        assert made.by == "r"
        assert len(said) == 2
    else:
        assert made.data.by == "another"  # as Prefect's state Cached
        assert said[2].startswith("reused: made ")
    assert said[:2] == ["begins", "waits for another run, which makes the same"]


def test_it_is_waited_for_no_longer_than_the_stage_may_take(recipe, monkeypatch):
    monkeypatch.setattr(stages, "LOOK", 0.01)
    limits = recipe.gates.model_copy(update={"stage_hours": {"sample": 0.1 / 3600}})
    short, enough = recipe.model_copy(update={"gates": limits}), Event()
    with another_run(False, enough):
        with pytest.raises(StageTimeout, match=r"gates\.stage_hours"):
            sample.fn(short, STEP)
        enough.set()
