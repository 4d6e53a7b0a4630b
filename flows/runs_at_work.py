"""The flow runs that a Prefect worker has begun on this machine, and how long they have to end."""

import os
import time
from contextlib import suppress

import psutil

BEGINS = 0.2  # seconds until a run that was just begun can be told by its variables
REPORT = 30  # seconds that a run has, once its child ended, to say so to the server


def patience() -> int:
    """Return the seconds that a run has which is told to end. Imports the stage that trains."""
    from tasks.train.task import FINISHING

    return FINISHING + REPORT


def runs_of(worker: int, orphans: bool = False) -> list[psutil.Process]:
    """Return the flow runs of the process `worker`; what they started they end themselves.

    Those of a worker that was killed have lost their parent: with `orphans`, all runs of our own
    PREFECT_HOME are there.
    """
    runs = []
    with suppress(psutil.NoSuchProcess):
        # All processes of a machine take long to look at, in which a worker may begin a run.
        for process in psutil.process_iter() if orphans else psutil.Process(worker).children():
            with suppress(psutil.Error):  # a zombie has no environment, others' is not ours to read
                variables = process.environ()
                ours = variables.get("PREFECT_HOME") == os.environ.get("PREFECT_HOME", "")
                known = process.ppid() == worker or (orphans and ours)
                if "PREFECT__FLOW_RUN_ID" in variables and known:
                    runs.append(process)
    return runs


def end_idle(worker: int) -> list[psutil.Process]:
    """Kill the process `worker` if it has no runs; else return them, and it goes on.

    Told to end, it could still begin a run before it hears of it, and nobody would end that one: it
    stands still while its runs are looked for.
    """
    try:
        process = psutil.Process(worker)
        process.suspend()
    except psutil.NoSuchProcess:
        return []
    is_idle = False
    try:
        time.sleep(BEGINS)
        runs = runs_of(worker)
        is_idle = not runs
        return runs
    finally:  # an interrupt does not leave it standing: it has to hear that it is to end its runs
        with suppress(psutil.NoSuchProcess):
            if is_idle:
                process.kill()
            else:
                process.resume()
