"""A host that is lent to the training of a run on another one: `retune join`."""

import socket
import time
from datetime import timedelta
from pathlib import Path

from retune.home import home, make_home, mark, remove
from tasks.train import handover
from tasks.train.hosts import Hosts
from tasks.train.job import TrainingRefused, TrainJob
from tasks.train.rendezvous import HostLost, current_store
from tasks.train.task import run_training

PAUSE = 2  # seconds between two looks for the first host
TRANSFER = timedelta(minutes=10)  # that the job and its files may take


def join(hosts: Hosts, patience: timedelta) -> None:
    """Train this host's share of the next training of the first host, and return when it has ended well.

    Raises TrainingRefused for a host that cannot join, HostLost if no training begins in `patience`, and
    what `run_training` raises. The log of a training that failed stays in the home folder.
    """
    if hosts.count == 1 or hosts.number == 0:
        raise TrainingRefused(
            f"with NNODES={hosts.count} and NODE_RANK={hosts.number}, which are 1 and 0 where they are "
            f"not set, nothing can be joined: set NNODES, NODE_RANK (from 1 on), MASTER_ADDR and "
            f"MASTER_PORT (docs/gpu.md, Several hosts); the first host starts the run itself"
        )
    make_home()
    folder = mark(home() / "joined") / str(hosts.number)
    remove(folder)
    folder.mkdir()
    job = awaited_job(hosts, folder, patience)
    log = f"train-{hosts.number}.log"
    print(f"training as host {hosts.number} of {hosts.count}: {job.folder / log}", flush=True)
    run_training(job, lambda event: None, hosts.told(), log)
    remove(folder)


def awaited_job(hosts: Hosts, folder: Path, patience: timedelta) -> TrainJob:
    """Return the job of the training that the first host begins next."""
    from torch.distributed import DistError

    end = time.monotonic() + patience.total_seconds()
    where = f"MASTER_ADDR={hosts.address}, MASTER_PORT={hosts.port}"
    print(f"waiting for a training at {where}{_unknown(hosts.address)}", flush=True)
    while True:
        try:
            if store := current_store(hosts, PAUSE):
                return handover.take(store, folder, TRANSFER)
        # It is not there yet, or gone meanwhile; a name may be none of a host.
        except (DistError, RuntimeError, OSError, UnicodeError):
            pass
        if time.monotonic() > end:
            hours = patience.total_seconds() / 3600
            raise HostLost(
                f"no training has begun at {where} within {hours:g} hours (--hours)"
                f"{_unknown(hosts.address)}"
            )
        time.sleep(PAUSE)


def _unknown(address: str) -> str:
    """Return what to say of an address that no host is known by; in a cluster it may be so later."""
    try:
        socket.getaddrinfo(address, None)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no name of a host"
        return f"; {address} is not known here ({reason}): correct it, unless it is yet to appear"
    return ""
