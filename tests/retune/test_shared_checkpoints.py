"""Checkpoints in the store: sent while a training runs, taken up by whoever goes on."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from retune.building import building
from retune.files import sha256
from retune.home import mark
from retune.outputs import Output, Step
from retune.store import checkpoints, place
from retune.store.checkpoints import are_there, kept
from tests.retune.test_store import files_of
from tests.retune.test_store import machine as machine
from tests.retune.test_store import stored as stored

pytestmark = pytest.mark.usefixtures("obstore")
STEP = Step(stage="train", key={"r": 8})
SEAL = "sealed.json"
LOG = "training_log.jsonl"


@pytest.fixture(autouse=True)
def _often(monkeypatch):
    monkeypatch.setattr(checkpoints, "POLL", 0.01)


def write(folder: Path, step: int, loss: float = 1.0) -> None:
    """Write a sealed checkpoint as a training does, and its line of the log."""
    checkpoint = folder / "checkpoints" / f"checkpoint-{step}"
    mark(folder / "checkpoints")
    checkpoint.mkdir()
    (checkpoint / "weights").write_text(f"after {step}")
    one = checkpoint / "weights"
    files = {"weights": {"bytes": one.stat().st_size, "sha256": sha256(one)}}
    with (folder / LOG).open("a") as log:
        log.write(json.dumps({"step": step}) + "\n")
    (checkpoint / SEAL).write_text(json.dumps({"held_out_loss": loss, "files": files}))


def keeping(folder: Path):
    return kept(STEP.name, folder / "checkpoints", SEAL, (LOG, "usage.json"))


@contextmanager
def training(*there: int) -> Iterator[Path]:
    """Give the folder of a training, in which checkpoints of some steps are already."""
    with building(STEP, keep_partial=True) as build:
        for step in there:
            write(build.path, step)
        with keeping(build.path):
            yield build.path
        build.finish(Output)


def until(condition) -> None:
    end = time.monotonic() + 20
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    assert condition()


def in_store(stored: Path) -> list[int]:
    found = stored.glob(f"partial/{STEP.name}/checkpoint-*/whole.json")
    return sorted(int(path.parent.name.split("-")[1]) for path in found)


class MachineLostError(BaseException):
    """Nothing runs after it on a machine that is gone."""


def lost_after(machine, stored, monkeypatch, *steps: int) -> None:
    """Have a machine train these steps and vanish."""
    machine("a")
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints._Copies, "leave", lambda self: None)
        with pytest.raises(MachineLostError), training() as folder:
            for step in steps:
                write(folder, step)
                until(lambda step=step: step in in_store(stored))
            raise MachineLostError


def test_another_machine_goes_on_from_the_newest_one(machine, stored, monkeypatch):
    lost_after(machine, stored, monkeypatch, 5, 10)
    machine("b")
    assert are_there(STEP.name)
    with building(STEP, keep_partial=True) as build:
        with keeping(build.path):
            (there,) = (build.path / "checkpoints").glob("checkpoint-*")
            assert there.name == "checkpoint-10"
            assert (there / "weights").read_text() == "after 10"
            assert (there / SEAL).is_file()
            assert len((build.path / LOG).read_text().splitlines()) == 2
        assert not list(build.path.glob("checkpoints.*"))
        output = build.finish(Output)
    assert "training_log.jsonl" in output.manifest
    assert not files_of(stored / "partial")  # the output is published
    assert not are_there(STEP.name)


def test_one_that_was_tampered_with_is_left_for_the_one_before(machine, stored, monkeypatch):
    lost_after(machine, stored, monkeypatch, 5, 10)
    (weights,) = stored.glob("partial/*/*/checkpoint-10-*/checkpoint/weights")
    weights.write_text("forged 10"[: len("after 10")])
    machine("b")
    with training() as folder:
        (there,) = (folder / "checkpoints").glob("checkpoint-*")
        assert there.name == "checkpoint-5"


def test_one_that_was_not_sent_to_its_end_is_none(machine, stored, monkeypatch):
    lost_after(machine, stored, monkeypatch, 5, 10)
    (whole,) = stored.glob("partial/*/*/checkpoint-10-*/whole.json")
    whole.unlink()
    machine("b")
    with training() as folder:
        assert [path.name for path in (folder / "checkpoints").glob("checkpoint-*")] == [
            "checkpoint-5"
        ]


def test_a_newer_one_here_stays(machine, stored, monkeypatch):
    lost_after(machine, stored, monkeypatch, 5)
    machine("b")
    with training(7) as folder:
        assert [path.name for path in (folder / "checkpoints").glob("checkpoint-*")] == [
            "checkpoint-7"
        ]


def test_what_an_interrupted_training_leaves_is_sent(machine, stored, monkeypatch):
    monkeypatch.setattr(checkpoints, "POLL", 3600)
    with pytest.raises(KeyboardInterrupt), training() as folder:
        write(folder, 3)
        raise KeyboardInterrupt
    assert in_store(stored) == [3]


def test_a_training_that_diverged_leaves_none(machine, stored):
    with pytest.raises(ValueError, match="diverged"), training() as folder:
        write(folder, 3)
        until(lambda: in_store(stored) == [3])
        (folder / "checkpoints").rename(folder / "gone")
        raise ValueError("diverged")
    assert not files_of(stored)


def test_the_last_two_and_the_best_stay_in_the_store(machine, stored):
    with training() as folder:
        for step, loss in ((1, 3.0), (2, 1.0), (3, 2.0), (4, 2.0), (5, 2.5)):
            write(folder, step, loss)
            until(lambda step=step: step in in_store(stored))
        until(lambda: in_store(stored) == [2, 4, 5])


def test_a_training_goes_on_while_the_store_is_away(machine, stored, monkeypatch, caplog):
    send = place.Store.send

    def away(*_):
        raise place.StoreUnreachable("it does not answer")

    with training() as folder:
        monkeypatch.setattr(place.Store, "send", away)
        write(folder, 1)
        until(lambda: "its checkpoint is sent later: it does not answer" in caplog.text)
        time.sleep(0.1)
        monkeypatch.setattr(place.Store, "send", send)
        until(lambda: in_store(stored) == [1])
    assert caplog.text.count("does not answer") == 1


def test_without_a_store_it_does_nothing(machine, monkeypatch, tmp_path):
    monkeypatch.delenv("RETUNE_STORE")
    with keeping(tmp_path):
        pass
    assert not list(tmp_path.iterdir())
    assert not are_there(STEP.name)
