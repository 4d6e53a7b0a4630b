"""Outputs appear whole or not at all."""

import errno
import os
import signal
import subprocess
import sys
import time

import pytest

from retune import workspace
from retune.workspace import NoSpaceLeft, Output, OutputBusy, Step, building


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("RETUNE_HOME", str(tmp_path))


STEP = Step(stage="train", key={"r": 16})


def test_a_finished_output_explains_itself():
    with building(STEP) as build:
        (build.path / "weights").write_text("w")
        assert not STEP.folder.exists()
        output = build.finish(Output, metrics={"loss": 1.0})
    assert (STEP.folder / "weights").read_text() == "w"
    assert Output.model_validate_json((STEP.folder / "output.json").read_text()) == output
    assert output.step.key == {"r": 16}


def test_a_failure_leaves_nothing():
    with pytest.raises(ZeroDivisionError), building(STEP) as build:
        (build.path / "half").write_text("")
        raise ZeroDivisionError
    assert not STEP.folder.exists()
    assert not list(STEP.folder.parent.glob("*.partial"))


def test_a_failure_leaves_its_logs_and_nothing_large():
    with pytest.raises(ZeroDivisionError), building(STEP) as build:
        (build.path / "merge.log").write_text("why")
        (build.path / "model").mkdir()
        (build.path / "model" / "weights").write_text("16 GB")
        raise ZeroDivisionError
    assert [path.name for path in build.path.iterdir()] == ["merge.log"]
    with building(STEP) as build:
        assert list(build.path.iterdir()) == []
        build.finish(Output)


def test_a_partial_output_can_be_continued():
    with pytest.raises(ZeroDivisionError), building(STEP, keep_partial=True) as build:
        (build.path / "checkpoint").write_text("7")
        raise ZeroDivisionError
    with building(STEP, keep_partial=True) as build:
        assert (build.path / "checkpoint").read_text() == "7"


def test_two_builders_of_one_output_do_not_mix():
    with building(STEP), pytest.raises(OutputBusy, match="wait for it"), building(STEP):
        pass


def test_a_killed_builder_blocks_nobody(tmp_path):
    code = (
        "import time; from retune.workspace import *\n"
        "with building(Step(stage='train', key={'r': 16})): print('in', flush=True); time.sleep(60)"
    )
    environment = os.environ | {"RETUNE_HOME": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment
    ) as child:
        assert child.stdout.readline() == "in\n"
        child.send_signal(signal.SIGKILL)
    time.sleep(0.1)
    with building(STEP) as build:
        build.finish(Output)
    assert STEP.folder.is_dir()


def test_a_full_disk_is_one_clear_error():
    with pytest.raises(NoSpaceLeft, match="set RETUNE_HOME"), building(STEP):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_the_fingerprint_is_made_of_the_key():
    assert (
        Step(stage="a", key={"x": 1, "y": 2}).fingerprint
        == Step(stage="b", key={"y": 2, "x": 1}).fingerprint
    )
    assert Step(stage="a", key={"x": 1}).fingerprint != Step(stage="a", key={"x": 2}).fingerprint


def test_sha256_of_a_folder_sees_names_and_contents(tmp_path):
    folder = tmp_path / "f"
    folder.mkdir()
    (folder / "a").write_text("1")
    first = workspace.sha256(folder)
    (folder / "a").rename(folder / "b")
    assert workspace.sha256(folder) != first
