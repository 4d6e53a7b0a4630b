"""`retune worker`, told to end: its runs first, with time for their checkpoints, then the worker."""

import signal
import subprocess
import sys
import time

import psutil
import pytest

from tests.test_house import ROOT

# What stands for Prefect's worker: it begins a run, and a second one some time after the first has
# ended. A run takes a second to write its checkpoint.
PREFECT = """
import os, signal, subprocess, sys, time
RUN = '''
import os, pathlib, signal, sys, time
def end(*_):
    time.sleep(1)
    pathlib.Path(sys.argv[1]).touch()
    sys.exit()
signal.signal(signal.SIGTERM, end)
told = [os.environ.get("PREFECT_CLIENT_" + name) for name in ("MAX_RETRIES", "RETRY_EXTRA_CODES")]
pathlib.Path(sys.argv[1] + ".begun").write_text(str(told))
time.sleep(60)
'''
for number in (1, 2):
    file = f"{sys.argv[1]}/checkpoint-{number}"
    environment = os.environ | {"PREFECT__FLOW_RUN_ID": str(number)}
    subprocess.Popen([sys.executable, "-c", RUN, file], env=environment).wait()
    time.sleep(float(sys.argv[2]))
time.sleep(60)
"""
WORKER = """
import sys
from flows import local, worker
local.configure = lambda: None
local.api_address = lambda: "http://127.0.0.1:1/api"
worker.patience = lambda: 60
worker._command = lambda *_: [sys.executable, "-c", sys.argv[2], sys.argv[1], sys.argv[3]]
sys.exit(worker.work("retune", 1, False))
"""


# Seconds between the two runs: within a look at what runs, or just when nothing was found any more.
@pytest.fixture(
    params=[0, *(pytest.param(seconds, marks=pytest.mark.proof) for seconds in (0.3, 0.5))]
)
def worker(tmp_path, request):
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(tmp_path), PREFECT, str(request.param)],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        while not (tmp_path / "checkpoint-1.begun").exists():
            assert process.poll() is None
            time.sleep(0.05)
        yield process
    finally:
        process.kill()


def test_runs_write_their_checkpoints_before_the_worker_ends(worker, tmp_path):
    worker.send_signal(signal.SIGTERM)
    out, _ = worker.communicate(timeout=60)
    assert worker.returncode == 0
    # The second was begun while the first ended.
    assert (tmp_path / "checkpoint-1").exists()
    assert (tmp_path / "checkpoint-2").exists() or not (tmp_path / "checkpoint-2.begun").exists()
    assert not [process for process in psutil.process_iter(["cmdline"])
                if str(tmp_path / "checkpoint") in str(process.info["cmdline"])]  # fmt: skip
    assert "to write its checkpoint" in out


def test_its_runs_wait_for_a_server_that_is_away_or_out_of_order(worker, tmp_path):
    assert (tmp_path / "checkpoint-1.begun").read_text() == "['9', '500,504']"


def test_a_second_signal_does_not_wait(worker, tmp_path):
    worker.send_signal(signal.SIGTERM)
    assert "checkpoint" in worker.stdout.readline()
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == 0
    assert not (tmp_path / "checkpoint-2.begun").exists()


def test_without_a_server_there_is_nothing_to_work_for(tmp_path, monkeypatch):
    from flows import local
    from flows.worker import work

    monkeypatch.setattr(local, "configure", lambda: None)
    monkeypatch.setattr(local, "api_address", lambda: None)
    with pytest.raises(local.NoServer, match="PREFECT_API_URL"):
        work("retune", 1, False)


def test_an_interrupt_leaves_no_worker_standing_still(monkeypatch):
    from flows import runs_at_work

    def interrupt(_worker):
        raise SystemExit(0)

    monkeypatch.setattr(runs_at_work, "runs_of", interrupt)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        try:
            with pytest.raises(SystemExit):
                runs_at_work.end_idle(process.pid)
            process.communicate(b"go on\n", timeout=10)
            assert process.returncode == 0
        finally:
            process.kill()
