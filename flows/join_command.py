"""`retune join`: lends this host to the training of a run on another one."""

from datetime import timedelta
from typing import Annotated

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
    from retune.workspace import keep_private
    from tasks.train.hosts import hosts_of
    from tasks.train.joining import join as joined

    keep_private()
    joined(hosts_of(1), timedelta(hours=hours))
