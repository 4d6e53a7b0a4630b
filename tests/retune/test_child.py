"""Children that answer, refuse, crash, are killed, and are orphaned."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pydantic import BaseModel

from retune.child import ChildFailed, ChildRefused, run_child
from retune.environment import ROOT
from retune.errors import RetuneError

CHILD = """
import os, signal, subprocess, sys, time
from pydantic import BaseModel
from retune.child import emit, main
from retune.errors import RetuneError

class Job(BaseModel):
    what: str

def work(job):
    print("chatter")
    emit("begin", pid=os.getpid())
    if job.what == "refuse":
        raise RetuneError("rows is 0; use more")
    if job.what == "paint":
        raise RetuneError("row says \\x1b[2J\\rACCEPTED")
    if job.what == "crash":
        import numpy as np
        np.zeros(3).reshape(2, 2)
    if job.what == "exit":
        print("\\x1b[32mACCEPTED")
        os._exit(3)
    if job.what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if job.what == "hang":
        grandchild = subprocess.Popen(["sleep", "600"])
        emit("grandchild", pid=grandchild.pid)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)
    return {"answer": job.what}

main(Job, work)
"""


class Job(BaseModel):
    what: str


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "script.py"
    path.write_text(CHILD)
    return path


def is_running(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def wait_until_gone(*pids: int) -> None:
    deadline = time.monotonic() + 10
    while any(map(is_running, pids)):
        assert time.monotonic() < deadline, f"{pids} still run"
        time.sleep(0.05)


def test_events_arrive_and_output_goes_to_the_log(script, tmp_path, capfd):
    events = []
    result = run_child(script, Job(what="nothing"), tmp_path / "log.txt", events.append)
    assert result["answer"] == "nothing"
    assert [event["event"] for event in events] == ["begin"]
    assert (tmp_path / "log.txt").read_text() == "chatter\n"
    assert capfd.readouterr() == ("", "")


def test_a_refusal_is_one_clear_message(script, tmp_path):
    with pytest.raises(ChildRefused, match=r"^rows is 0; use more$"):
        run_child(script, Job(what="refuse"), tmp_path / "log.txt")


def test_a_crash_names_its_stage_its_place_and_the_log(script, tmp_path):
    """A library's ValueError, too, is no mistake of a person."""
    with pytest.raises(ChildFailed) as crash:
        run_child(script, Job(what="crash"), tmp_path / "log.txt")
    first, *frames, last = str(crash.value).splitlines()
    assert first == (
        f"{tmp_path.name} failed: ValueError: cannot reshape array of size 3 into shape (2,2)"
    )
    assert any(f'File "{script}"' in line and "in work" in line for line in frames)
    assert last == f"The full log is {tmp_path / 'log.txt'}"
    assert "Traceback" in (tmp_path / "log.txt").read_text()
    assert not isinstance(crash.value, RetuneError)


def test_a_silent_end_is_explained(script, tmp_path):
    with pytest.raises(ChildFailed, match=r"exit code 3[\s\S]*chatter"):
        run_child(script, Job(what="exit"), tmp_path / "log.txt")
    with pytest.raises(ChildFailed, match=r"signal 9, SIGKILL .*memory"):
        run_child(script, Job(what="kill"), tmp_path / "log.txt")


def test_what_a_child_quotes_does_nothing_to_a_terminal(script, tmp_path):
    with pytest.raises(ChildRefused) as refused:
        run_child(script, Job(what="paint"), tmp_path / "log.txt")
    assert str(refused.value) == "row says \\x1b[2J\\rACCEPTED"
    with pytest.raises(ChildFailed, match="chatter") as failed:
        run_child(script, Job(what="exit"), tmp_path / "log.txt")
    assert "\\x1b[32mACCEPTED" in str(failed.value)


def test_an_interrupted_parent_ends_its_child(script, tmp_path, monkeypatch):
    """Also one that ignores SIGTERM, and what it started itself."""
    monkeypatch.setattr("retune.child.GRACE", 0.5)
    pids = []

    def interrupt(event):
        pids.append(event["pid"])
        if event["event"] == "grandchild":
            time.sleep(0.3)  # until the child ignores SIGTERM
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_child(script, Job(what="hang"), tmp_path / "log.txt", interrupt)
    wait_until_gone(*pids)


def test_a_killed_parent_leaves_no_orphans(script, tmp_path):
    parent_code = f"""
from pathlib import Path
from tests.retune.test_child import Job
from retune.child import run_child
run_child(Path({str(script)!r}), Job(what="hang"), Path({str(tmp_path / "log.txt")!r}),
          lambda event: print(event["pid"], flush=True))
"""
    with subprocess.Popen(
        [sys.executable, "-c", parent_code],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    ) as parent:
        pids = [int(parent.stdout.readline()) for _ in range(2)]
        assert all(map(is_running, pids))
        parent.send_signal(signal.SIGKILL)
    wait_until_gone(*pids)
