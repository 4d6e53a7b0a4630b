"""`retune worker`: a Prefect worker whose runs write their checkpoints before it ends.

Told to end, Prefect's own worker kills its runs on the spot. Containers, systemd, Slurm and a machine
that is taken back all say so by SIGTERM, some time before they pull the plug.
"""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from flows import local
from flows.runs_at_work import end_idle, patience, runs_of
from flows.servers import GRACE, end

LOOK = 0.5  # seconds between two looks at what still runs


def work(pool: str, limit: int, healthcheck: bool) -> int:
    """Work for the pool until told to end, and return the exit code of Prefect's worker.

    The first SIGTERM or SIGINT ends the runs, with time for their checkpoints, and then the worker;
    a second does not wait. With `healthcheck`, `/health` says whether the worker still asks for work, at
    PREFECT_WORKER_WEBSERVER_HOST and _PORT. Raises NoServer.
    """
    local.configure()
    local.require_server("a worker takes its runs from a Prefect server")
    local.be_patient()
    seconds = patience()  # an import of seconds, which the end has no time for
    told: list[int] = []
    for stop in (
        signal.SIGTERM,
        signal.SIGINT,
    ):  # before there is a worker that could be left alone
        signal.signal(stop, lambda number, _frame: told.append(number))
    with _worker(_command(pool, limit, healthcheck)) as worker:
        while worker.poll() is None and not told:
            time.sleep(LOOK)
        if told:
            _end_runs(worker.pid, told, seconds)
    return 0 if told else worker.returncode


def _command(pool: str, limit: int, healthcheck: bool) -> list[str]:
    prefect = str(Path(sys.executable).with_name("prefect"))
    command = [prefect, "worker", "start", "--pool", pool, "--type", "process"]
    command += ["--limit", str(limit), "--install-policy", "never"]
    return [*command, "--with-healthcheck"] if healthcheck else command


@contextmanager
def _worker(command: list[str]) -> Iterator["subprocess.Popen[bytes]"]:
    """Start Prefect's worker, and end it with this block."""
    # A session of its own: Ctrl-C reaches whatever is in the terminal's foreground, runs included.
    worker = subprocess.Popen(command, start_new_session=True)
    try:
        yield worker
    finally:
        with suppress(psutil.NoSuchProcess):
            end(psutil.Process(worker.pid))
        worker.wait(GRACE)


def _end_runs(worker: int, told: list[int], seconds: int) -> None:
    """End the runs of the process `worker`, also those that it still begins meanwhile, and then it."""
    deadline, ending = time.monotonic() + seconds, set[int]()
    while time.monotonic() < deadline and len(told) == 1:
        if not (runs := runs_of(worker) or end_idle(worker)):
            return
        for run in runs:
            if run.pid not in ending:
                print(f"Waiting for run {run.pid} to write its checkpoint.", flush=True)
                with suppress(psutil.NoSuchProcess):
                    run.terminate()
                ending.add(run.pid)
        time.sleep(LOOK)
