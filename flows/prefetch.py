"""Unsloth is read from the disk and compiled while the data are prepared.

The first import on a machine takes a minute, for which the GPU would wait; the next one a fraction.
"""

import subprocess
import sys
import tempfile
from contextlib import suppress
from threading import Thread

from retune.environment import without_secrets
from retune.machine import cores, gpus
from retune.recipe import Recipe

FEWEST_CORES = 4  # with fewer, what prepares the data would wait for it
SECONDS = 300  # then it is given up; what trains imports by itself


def prefetch(recipe: Recipe) -> Thread | None:
    """Import Unsloth in a process beside this one, if it will train here; return the thread that
    waits for it."""
    if recipe.training.backend != "unsloth" or not gpus() or cores() < FEWEST_CORES:
        return None
    thread = Thread(target=_import, args=("unsloth",), daemon=True)
    thread.start()
    return thread


def _import(module: str) -> None:
    command = [sys.executable, "-c", f"import {module}"]
    # It writes generated code to the current folder; what trains has a folder of its own for that.
    with tempfile.TemporaryDirectory() as folder, suppress(subprocess.TimeoutExpired):
        subprocess.run(
            command,
            cwd=folder,
            env=without_secrets(hub=False),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=SECONDS,
            check=False,
        )
