"""A training whose machine is lost goes on, on another, from the checkpoint in the store."""

import os
import time

import pytest

from retune.child import ChildFailed
from retune.outputs import Step, offer
from retune.recipe import Training
from retune.store import cache, checkpoints, place, sharing
from retune.tracking import Run, start_run, tracking_uri
from tasks.train.task import Monitor, train
from tests.tasks.conftest import Trained, read_json_lines, running_child

# tests/retune/test_shared_checkpoints.py has the light cases.
pytestmark = [pytest.mark.proof, pytest.mark.usefixtures("obstore")]

STEP = Step(stage="train", key={"elsewhere": 1})
SETTINGS = Training(**Trained.settings.model_dump() | {"epochs": 1})  # 40 steps


class KilledMachine(Run):
    """A run in which the training child is killed once a checkpoint of it is in the store."""

    def log_rows(self, rows):
        end = time.monotonic() + 120
        while time.monotonic() < end:
            if checkpoints.are_there(STEP.name):
                break
            time.sleep(0.05)
        running_child().kill()


def test_it_ends_with_the_same_bytes(at_home, tmp_path, monkeypatch):
    recipe = at_home.recipe(training=SETTINGS)
    first_home = os.environ["RETUNE_HOME"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri())  # which all machines have in common
    began = []
    begin = Monitor._on_begin

    def noted(self, step, total, dropped):
        began.append(step)
        begin(self, step, total, dropped)

    def on(machine: str, store: str, run: Run):
        cache.let_go()
        sharing.known.clear()
        monkeypatch.setenv("RETUNE_STORE", (tmp_path / store).as_uri())
        monkeypatch.setenv("RETUNE_HOME", first_home)
        offer(at_home.chats.step)  # so that each machine has the rows
        monkeypatch.setenv("RETUNE_HOME", str(tmp_path / machine))
        made = train.fn(at_home.chats, run, recipe, at_home.pins, STEP)
        return made, (made.path / "adapter_model.safetensors").read_bytes()

    monkeypatch.setattr(Monitor, "_on_begin", noted)
    monkeypatch.setattr(checkpoints, "POLL", 0.1)
    place._opened.cache_clear()
    with start_run(recipe, "elsewhere", {}) as run:
        with monkeypatch.context() as patch:
            patch.setattr(checkpoints._Copies, "leave", lambda self: None)  # it is gone at once
            with pytest.raises(ChildFailed, match="SIGKILL"):
                on("a", "store", KilledMachine(**dict(run)))
        (partial,) = (tmp_path / "a" / "work" / "train").glob("*.partial")
        first = read_json_lines(partial / "training_log.jsonl")
        made, weights = on("b", "store", run)
        rows = read_json_lines(made.folder / "training_log.jsonl")
        _, undisturbed = on("c", "other", run)
    assert began == [0, began[1], 0]
    assert began[1] > 0
    assert began[1] % 5 == 0  # of a checkpoint
    assert rows[: began[1]] == first[: began[1]]  # machine a's, their times included
    assert [row["step"] for row in rows] == list(range(1, 41))
    assert weights == undisturbed
    assert not [*(tmp_path / "store" / "partial").rglob("*.json")]
