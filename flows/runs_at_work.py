"""The flow runs that a Prefect worker has begun on this machine, and how long they have to end."""

import os
from contextlib import suppress

import psutil

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
