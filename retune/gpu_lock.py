"""One run at a time on each GPU: a lock of the kernel's by the GPU's id, for all runs of a user.

It holds whoever started them (a worker, `retune run`, two Prefect servers) and goes with its process,
however that ends: there is no lease to renew and none that stays behind.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from retune.escaping import visible
from retune.files import write_whole
from retune.home import cache_dir
from retune.machine import gpu_ids
from retune.recipe import Recipe

INTERVAL = 2  # seconds between looks at a lock that another run holds


@contextmanager
def gpus_alone(recipe: Recipe, tell: Callable[[str], None]) -> Iterator[None]:
    """Hold the NVIDIA GPUs that this process may use, unless the recipe shares them.

    Waits until no other run holds one of them; `tell` is given one sentence that says for whom. Without
    a GPU nothing is held.
    """
    with held(gpu_ids() if recipe.schedule.gpu == "alone" else (), recipe.name, tell):
        yield


@contextmanager
def held(devices: Sequence[str], recipe: str, tell: Callable[[str], None]) -> Iterator[None]:
    """Hold devices by their ids, and note that it is a run of `recipe` that does."""
    with ExitStack() as stack:
        for device in sorted(devices):  # in one order everywhere: no two runs wait for each other
            stack.enter_context(_held(device, recipe, tell))
        yield


@contextmanager
def _held(device: str, recipe: str, tell: Callable[[str], None]) -> Iterator[None]:
    from filelock import FileLock, Timeout

    folder = cache_dir() / "gpus"
    folder.mkdir(parents=True, exist_ok=True)
    note, lock = folder / f"{device}.json", FileLock(folder / f"{device}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        tell(f"waits for {_holder(note)}, which works on the GPU {device} (schedule.gpu=alone)")
        lock.acquire(poll_interval=INTERVAL)
    try:
        since = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
        write_whole(note, json.dumps({"recipe": recipe, "since": since}))
        yield
    finally:
        lock.release()


def _holder(note: Path) -> str:
    """Return who holds a device; the note is written after the lock is taken."""
    try:
        about = json.loads(note.read_text(encoding="utf-8"))
        return f"a run of {visible(about['recipe'], 100)} (since {visible(about['since'], 30)})"
    except (OSError, ValueError, LookupError, TypeError):
        return "another run"
