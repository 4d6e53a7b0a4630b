"""What this machine can do, and whether that is enough for a recipe."""

import getpass
import math
import os
import platform
import shutil
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import psutil

from retune.errors import RetuneError
from retune.recipe import Recipe


class MachineUnfit(RetuneError):
    """This machine cannot run the recipe; the message names the setting to change."""


class Machine(NamedTuple):
    """What a machine is: `gpus` by name, `driver` is NVIDIA's (None without a GPU)."""

    cpu: str
    cores: int
    memory_gib: float
    gpus: tuple[str, ...]
    driver: str | None


def this_machine() -> Machine:
    """Return what this process runs on, of a container its share."""
    memory = round(psutil.virtual_memory().total / 2**30, 1)
    driver = next((driver for _, driver in _cards()), None)
    return Machine(_cpu(), cores(), memory, gpus(), driver)


def gpus() -> tuple[str, ...]:
    """Return the names of the NVIDIA GPUs, without loading torch."""
    return tuple(name for name, _ in _cards())


@lru_cache(maxsize=1)
def _cards() -> tuple[tuple[str, str], ...]:
    """Return name and driver of each NVIDIA GPU."""
    lines = _nvidia_smi("name,driver_version")
    return tuple((name, driver) for name, _, driver in (line.rpartition(", ") for line in lines))


@lru_cache(maxsize=1)
def compute_capabilities() -> tuple[str, ...]:
    """Return the compute capability of each NVIDIA GPU that programs may use, `9.0` for an H100."""
    return tuple(_nvidia_smi("compute_cap", visible=True))


def gpu_ids() -> tuple[str, ...]:
    """Return the id of each NVIDIA GPU that programs may use, `GPU-` and a UUID."""
    return tuple(_nvidia_smi("uuid", visible=True))


def free_gpu_memory() -> int:
    """Return the bytes that are free on the NVIDIA GPUs that programs may use, of all together."""
    return sum(int(mib) for mib in _nvidia_smi("memory.free", visible=True) if mib.isdigit()) << 20


def free_device_memory() -> int:
    """Return the bytes that are free where a model is loaded: on the first NVIDIA GPU that programs
    may use, or, without one, in main memory."""
    free = [int(mib) << 20 for mib in _nvidia_smi("memory.free", visible=True) if mib.isdigit()]
    return free[0] if free else free_memory()


def _nvidia_smi(query: str, visible: bool = False) -> list[str]:
    """Return nvidia-smi's answer for each GPU, or for those that CUDA_VISIBLE_DEVICES leaves."""
    program = shutil.which("nvidia-smi")
    if not program:
        return []
    command = [program, f"--query-gpu=index,uuid,{query}", "--format=csv,noheader,nounits"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = listed.stdout.splitlines() if listed.returncode == 0 else []
    cards = [line.split(", ", 2) for line in lines]
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES") if visible else None
    answers = []
    for name in range(len(cards)) if chosen is None else chosen.split(","):
        # By number or by the beginning of an id; as for CUDA, the first one that is none ends the list.
        is_id = str(name).startswith("GPU-")
        found = [c for c in cards if (c[1].startswith(str(name)) if is_id else c[0] == str(name))]
        if not found:
            break
        answers.append(found[0][2])
    return answers


def _cpu() -> str:
    """Return the processor's name; platform.processor() says no more than x86_64 on Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def cores() -> int:
    """Return how many cores this process may use: its CPU set, or its container's quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return min(allowed or 1, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):  # no container, or "max"
        return allowed or 1


def free_memory() -> int:
    """Return the bytes of memory that this process may still take, here or in its container."""
    available = psutil.virtual_memory().available
    cgroup = Path("/sys/fs/cgroup")
    try:
        limit = int((cgroup / "memory.max").read_text())
        lines = (cgroup / "memory.stat").read_text().splitlines()
        # Cached files count as used too, and make room.
        anonymous = int(dict(line.split() for line in lines)["anon"])
    except (OSError, ValueError):  # no container, or "max"
        return available
    return min(available, limit - anonymous)


def require_machine(recipe: Recipe) -> None:
    """Raise MachineUnfit, before anything is downloaded, if the recipe needs a GPU and none is here."""
    if reason := lacking(recipe):
        raise MachineUnfit(f"recipe {recipe.name} {reason}")


def lacking(recipe: Recipe) -> str:
    """Return what the recipe needs and this machine lacks, with the settings to change, or nothing."""
    demands = {
        "model.load_in_4bit=false": recipe.model.load_in_4bit,
        "training.optimizer=adamw_torch": recipe.training.optimizer.endswith("8bit"),
    }
    changes = [change for change, needed in demands.items() if needed]
    if not changes or gpus():
        return ""
    return (
        f"needs a GPU and none is here (nvidia-smi finds none); run it on a machine with one, or set "
        f"{' and '.join(changes)}"
    )


def user_name() -> str | None:
    """Return who this process runs for; None for a container's user without a name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return None
