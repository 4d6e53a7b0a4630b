"""A disk that is really full, databases and all: one sentence each time, and all goes on with room.

The home folder is a small file system in memory; where mounting is not allowed there is no such test.
"""

import errno
import logging
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from flows import full_disk as full
from flows.full_disk import full_disk
from flows.local import _is_news
from tests.databases import furnish
from tests.flows.small_disk import BLOCK, Ballast, CannotMount, small_disk
from tests.flows.test_line import Project

SIZE = 160  # MiB
STAGES = "evaluate", "merge", "convert", "quantize"  # in whose midst the disk is full
SENTENCES = "no space left in ", "a run takes at least ", "the disk is too full: "


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home folder on a disk of its own."""
    try:
        with small_disk(tmp_path / "disk", SIZE) as disk:
            yield furnish(disk / "home")
    except CannotMount as reason:
        pytest.skip(str(reason))


def recipe(project: Project) -> None:
    """Let the project make one file."""
    settings = yaml.safe_load((project.folder / "recipe.yaml").read_text())
    settings["training"]["backend"] = "trl"
    settings["merging"] = {"save_method": "merged_16bit"}
    gates = {"q8_0": settings["quantization"]["gates"]["q8_0"]}
    settings["quantization"] |= {"methods": ["q8_0"], "gates": gates}
    (project.folder / "recipe.yaml").write_text(yaml.safe_dump(settings))


def told(done: "subprocess.CompletedProcess[str]") -> str:
    """Return what a run that failed said last. Fails if it said more than a sentence."""
    said = done.stdout + done.stderr
    assert done.returncode, said  # 2 where nothing could begin
    assert "Traceback" not in said, said
    sentences = [line for line in said.splitlines() if any(s in line for s in SENTENCES)]
    assert sentences, said
    return sentences[-1]


def answered(status: int) -> httpx.HTTPError:
    request = httpx.Request("POST", "http://127.0.0.1:1/api/flow_runs/1/set_state")
    return httpx.HTTPStatusError("no", request=request, response=httpx.Response(status))


def is_news(error: Exception) -> bool:
    """Tell whether the terminal shows a traceback of Prefect's for this error."""
    words = "Encountered exception during execution"
    info = (type(error), error, None)
    return _is_news(logging.LogRecord("prefect", logging.ERROR, "", 0, words, None, info))


def test_a_server_that_cannot_write_is_told_as_the_full_disk(monkeypatch):
    for error in (answered(500), httpx.ConnectError("refused")):
        assert full_disk(error) is None  # there is room: the server has another reason
        assert is_news(error)
        with monkeypatch.context() as patch:
            patch.setattr(full, "LEAST_ROOM", sys.maxsize)
            assert "no space left in " in str(full_disk(error))
            assert not is_news(error)
            assert full_disk(ValueError("a fault of ours")) is None


def test_raw_errors_of_a_full_disk_are_told_as_one():
    raw = OSError(errno.ENOSPC, "No space left on device")
    assert full_disk(raw).errno == errno.ENOSPC
    assert not is_news(raw)
    assert full_disk(OSError(errno.EACCES, "Permission denied")) is None
    wrapped = RuntimeError("write failed")
    wrapped.__cause__ = raw
    assert "set RETUNE_HOME" in str(full_disk(wrapped))


@pytest.mark.proof
@pytest.mark.timeout(1800)
def test_a_full_disk_is_told_in_a_sentence_and_loses_nothing(tmp_path, home):
    project, ballast = Project(tmp_path), Ballast(home.parent)
    recipe(project)

    def run() -> Any:
        return project.retune("run", "recipe.yaml", RETUNE_HOME=str(home))

    for stage in STAGES:
        with ballast.filling(lambda: any((home / "work" / stage).glob("*.partial"))):  # noqa: B023
            print(stage, "-", told(run()))
        if stage == STAGES[0]:
            assert shutil.disk_usage(home).free < BLOCK
            print("start -", told(run()))
        ballast.drop()
        assert not any((home / "work" / stage).glob("*/output.json"))
    trained = {file: file.read_text() for file in home.glob("work/train/*/output.json")}
    done = run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert trained == {file: file.read_text() for file in home.glob("work/train/*/output.json")}
    assert len(trained) == 1  # which says when it was made
    assert len(list(home.glob("work/quantize/*/*.gguf"))) == 1
