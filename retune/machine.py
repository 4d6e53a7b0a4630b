"""What this machine can do, and whether that is enough for a recipe."""

import shutil
import subprocess
from functools import lru_cache

from retune.config import Recipe


class MachineUnfit(ValueError):
    """This machine cannot run the recipe; the message names the setting to change."""


@lru_cache(maxsize=1)
def gpus() -> tuple[str, ...]:
    """Return the names of the NVIDIA GPUs, without loading torch."""
    program = shutil.which("nvidia-smi")
    if not program:
        return ()
    query = [program, "--query-gpu=name", "--format=csv,noheader"]
    listed = subprocess.run(query, capture_output=True, text=True, check=False)
    return tuple(listed.stdout.splitlines()) if listed.returncode == 0 else ()


def require_machine(recipe: Recipe) -> None:
    """Raise MachineUnfit, before anything is downloaded, if the recipe needs a GPU and none is here."""
    if gpus():
        return
    needs = {
        "model.load_in_4bit=false": recipe.model.load_in_4bit,
        "training.optimizer=adamw_torch": recipe.training.optimizer.endswith("8bit"),
    }
    changes = [change for change, needed in needs.items() if needed]
    if changes:
        raise MachineUnfit(
            f"recipe {recipe.name} needs a GPU and none is here (nvidia-smi finds none); run it on a "
            f"machine with one, or set {' and '.join(changes)}"
        )
