"""Services that die are started again, and no more often than makes sense."""

import signal
import subprocess
import sys

import psutil
import pytest

from flows.servers import ServerError
from flows.supervisor import RESTARTS, Supervisor


@pytest.fixture
def supervisor(monkeypatch, tmp_path):
    monkeypatch.setenv("RETUNE_HOME", str(tmp_path))
    monkeypatch.setattr("flows.supervisor.PAUSE", 0)
    told = []
    supervisor = Supervisor(told.append)
    supervisor.told = told
    yield supervisor
    supervisor.end()


def ended(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait()


def test_what_dies_is_started_again_and_waited_for(supervisor):
    ready = []
    first = supervisor.start("sleeper", "sleep", "600", ready=lambda one: ready.append(one.pid))
    other = supervisor.start("other", "sleep", "600")
    assert not supervisor.look()
    ended(first)
    assert supervisor.look()
    now = supervisor.processes
    assert now["sleeper"].pid != first.pid
    assert now["other"].pid == other.pid
    assert ready == [now["sleeper"].pid]
    assert supervisor.told == [
        f"sleeper had ended (signal {signal.SIGKILL:d}) and was started again"
    ]
    supervisor.end()
    assert not any(psutil.pid_exists(process.pid) for process in now.values())


def test_what_a_killed_server_started_does_not_hold_its_port(supervisor, tmp_path):
    note = tmp_path / "pid"
    shell = supervisor.start("server", "sh", "-c", f"sleep 600 & echo $! > {note}; wait")
    while not (note.exists() and note.read_text().endswith("\n")):
        assert shell.poll() is None
    child = psutil.Process(int(note.read_text()))
    note.unlink()
    ended(shell)
    assert child.is_running()
    assert supervisor.look()
    _, alive = psutil.wait_procs([child], timeout=20)
    assert [one for one in alive if one.status() != psutil.STATUS_ZOMBIE] == []


def test_what_dies_again_and_again_is_an_error(supervisor, tmp_path):
    supervisor.start("broken", sys.executable, "-c", "raise SystemExit(3)")
    for _ in range(RESTARTS):
        supervisor.processes["broken"].wait()
        assert supervisor.look()
    supervisor.processes["broken"].wait()
    with pytest.raises(ServerError, match=r"broken ended 6 times within 10 minutes.*broken\.log"):
        supervisor.look()
    assert "exit code 3" in supervisor.told[0]
