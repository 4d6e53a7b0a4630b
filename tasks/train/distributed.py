"""Processes that train together: which GPUs they use, and what they tell each other."""

import os
from datetime import timedelta
from typing import Any

from retune.models import device

TIMEOUT = timedelta(minutes=30)  # of a process that waits for another, e.g. to write a checkpoint


def claim_gpus(count: int) -> None:
    """Let this process and its children see only the first `count` of the visible GPUs.

    Call it before anything uses a GPU. transformers would run one process on all visible GPUs, with
    a whole batch on each, and the energy is read of all visible GPUs. Nothing changes under a
    launcher (RANK is set): it has assigned the GPUs.
    """
    if "RANK" in os.environ:
        return
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = [str(number) for number in range(count)] if visible is None else visible.split(",")
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[:count])


def world_size() -> int:
    """Return the number of processes that train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Tell whether this is the process that writes files and sends events."""
    return os.environ.get("RANK", "0") == "0"


def connect() -> None:
    """Connect to the other processes now; otherwise the trainer does so when it is created."""
    if world_size() > 1 and device() == "cuda":
        from accelerate import PartialState

        PartialState(timeout=TIMEOUT)


def gathered(value: Any) -> list[Any]:
    """Return the values of all processes; only this one's if they are not connected."""
    import torch

    if not torch.distributed.is_initialized():
        return [value]
    values = [None] * world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def broadcast(value: Any) -> Any:
    """Return the first process's `value` in all processes."""
    import torch

    if world_size() == 1:
        return value
    values = [value]
    torch.distributed.broadcast_object_list(values)
    return values[0]
