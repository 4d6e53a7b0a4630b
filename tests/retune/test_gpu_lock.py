"""Two runs do not work on one GPU at once, whoever started them."""

import subprocess
import sys
import threading

import pytest

from retune import gpu_lock
from retune.recipe import Recipe

WORKER = """
import sys
from retune.gpu_lock import held
with held(["GPU-a"], "nightly", print):
    print("holds", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(gpu_lock, "INTERVAL", 0.05)


def recipe(gpu: str = "alone") -> Recipe:
    return Recipe.parse(
        {
            "name": "other",
            "model": {"base": "b"},
            "dataset": {"source": "d"},
            "schedule": {"gpu": gpu},
        }
    )


def test_a_run_waits_for_the_process_that_holds_its_gpu_however_that_ends():
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert worker.stdout.readline() == "holds\n"
    said, entered = [], threading.Event()

    def run() -> None:
        with gpu_lock.held(["GPU-b", "GPU-a"], "other", said.append):
            entered.set()

    thread = threading.Thread(target=run)
    thread.start()
    with gpu_lock.held(["GPU-c"], "third", said.append):
        assert not entered.wait(0.3)
    worker.kill()
    worker.wait()
    assert entered.wait(30)
    thread.join()
    (sentence,) = said
    assert sentence.startswith("waits for a run of nightly (since ")
    assert "the GPU GPU-a (schedule.gpu=alone)" in sentence


def test_gpus_are_shared_if_the_recipe_says_so(monkeypatch):
    monkeypatch.setattr(gpu_lock, "gpu_ids", lambda: ("GPU-a",))
    said = []
    held = gpu_lock.held(["GPU-a"], "nightly", said.append)
    with held, gpu_lock.gpus_alone(recipe("shared"), said.append):
        assert said == []
    with gpu_lock.gpus_alone(recipe(), said.append):
        assert "other" in (gpu_lock.cache_dir() / "gpus" / "GPU-a.json").read_text()
    assert said == []


def test_without_a_gpu_nothing_is_held(monkeypatch):
    monkeypatch.setattr(gpu_lock, "gpu_ids", tuple)
    with gpu_lock.gpus_alone(recipe(), pytest.fail):
        assert not (gpu_lock.cache_dir() / "gpus").exists()
