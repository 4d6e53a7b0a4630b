"""The time that a stage has: asked for by what waits, of each thread its own."""

import threading
import time
from pathlib import Path

import pytest

from retune.llamacpp.process import run
from retune.recipe import Recipe
from retune.recipe.section import RecipeError
from retune.time_limit import StageTimeout, limited, remaining, require_time


def test_a_stage_without_a_limit_has_all_time():
    with limited("merge", None):
        assert remaining() is None
        require_time()


def test_the_message_names_stage_and_setting():
    with limited("merge", 1e-9):
        time.sleep(0.001)
        with pytest.raises(StageTimeout, match=r"merge took longer than gates\.stage_hours"):
            require_time()
    require_time()


def test_each_thread_has_its_own():
    seen = []
    with limited("merge", 1):
        thread = threading.Thread(target=lambda: seen.append(remaining()))
        thread.start()
        thread.join()
    assert seen == [None]


def test_a_program_that_takes_longer_is_ended():
    with (
        limited("convert", 0.1 / 3600),
        pytest.raises(StageTimeout, match=r"convert took longer"),
    ):
        run([Path("/bin/sleep"), "600"])


def test_only_stages_have_one():
    recipe = {"name": "r", "model": {"base": "b"}, "dataset": {"source": "s"}}
    limits = {"gates": {"stage_hours": {"train": 12}}}
    assert Recipe.parse(recipe | limits).gates.stage_hours == {"train": 12}
    with pytest.raises(
        RecipeError, match=r"stage_hours.*'trian' is not a stage; did you mean 'train'"
    ):
        Recipe.parse(recipe | {"gates": {"stage_hours": {"trian": 1}}})
