"""`retune join`: lends this host to the training of a run on another one."""

import signal
import sys
from datetime import timedelta
from typing import Annotated, Any

import typer


def join(
    hours: Annotated[
        float,
        typer.Option(min=0.001, max=10_000, help="How long to wait for the training, in hours."),
    ] = 24,
) -> None:
    """Train this host's share of a run's training; the run is on the host with NODE_RANK=0.

    NNODES, NODE_RANK, MASTER_ADDR and MASTER_PORT say which hosts train together, see docs/gpu.md. Exit
    code 0: the training came to its end; 2: it did not.
    """
    from retune.home import keep_private
    from tasks.train.hosts import hosts_of
    from tasks.train.joining import join as joined

    keep_private()
    # The first process of a container would not hear it otherwise, and takes all others with it.
    signal.signal(signal.SIGTERM, _end)
    joined(hosts_of(1), timedelta(hours=hours))


def _end(number: int, frame: Any) -> None:
    """Leave; what trains is told to end then, and may write its part of a checkpoint."""
    sys.exit(128 + number)
