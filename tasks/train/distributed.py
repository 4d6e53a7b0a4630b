"""Processes that train together: which GPUs they use, and what they tell each other."""

import os
import socket
from contextlib import suppress
from datetime import timedelta
from typing import Any

from retune.models import device

TIMEOUT = timedelta(minutes=30)  # of a process that waits for another, e.g. to write a checkpoint


def claim_gpus(count: int) -> None:
    """Let this process and its children see only the first `count` of the visible GPUs.

    Call it before anything uses a GPU. transformers would run one process on all visible GPUs, with
    a whole batch on each, and the energy is read of all visible GPUs.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = [str(number) for number in range(count)] if visible is None else visible.split(",")
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[:count])


def rank() -> int:
    """Return this process's number among those that train together."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Return the number of processes that train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Tell whether this is the process that writes files and sends events."""
    return rank() == 0


def spans_hosts() -> bool:
    """Tell whether some of the processes are on another host."""
    return world_size() > int(os.environ.get("LOCAL_WORLD_SIZE", world_size()))


def connect() -> None:
    """Connect to the other processes, if there are any."""
    if world_size() > 1:
        from accelerate import PartialState

        if device() == "cpu" and (interface := _interface_to(os.environ["MASTER_ADDR"])):
            # gloo would take the address of the host's name, which on many is a loopback's.
            os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        PartialState(cpu=device() == "cpu", timeout=TIMEOUT)


def _interface_to(address: str) -> str | None:
    """Return the name of the network interface by which `address` is reached."""
    import psutil

    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((address, 1))  # sends nothing
        own = probe.getsockname()[0]
        for name, addresses in psutil.net_if_addrs().items():
            if any(one.address == own for one in addresses):
                return name
    return None


def barrier() -> None:
    """Wait until all processes have come here."""
    gathered(None)


def gathered(value: Any) -> list[Any]:
    """Return the values of all processes, by rank; only this one's if they are not connected."""
    import torch

    if not torch.distributed.is_initialized():
        return [value]
    values = [None] * world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def broadcast(value: Any, source: int = 0) -> Any:
    """Return in all processes the `value` of one of them, by its rank."""
    import torch

    if world_size() == 1:
        return value
    values = [value]
    torch.distributed.broadcast_object_list(values, source)
    return values[0]
