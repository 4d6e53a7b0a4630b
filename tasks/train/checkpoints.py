"""Checkpoints that are whole or not there: sealed when written, verified when read.

The trainer writes a checkpoint file by file. It counts only once `sealed.json` lies in it, which
names each file's size and SHA-256 and appears by a rename after all files are on the disk.

The seal proves that a checkpoint is whole, not who wrote it: files in our own home folder are
trusted. The trainer reads it with `weights_only`, but the index of a split one is a pickle.
"""

import hashlib
import json
import logging
import os
from pathlib import Path

from retune.files import files_in
from retune.home import remove

SEAL = "sealed.json"
NEWEST_COUNT = 2  # checkpoints that are kept besides the best

logger = logging.getLogger(__name__)


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def seal(checkpoint: Path, held_out_loss: float) -> None:
    """Mark a checkpoint as complete, with the loss by which the best is kept."""
    files = {name: _size_and_hash(path, sync=True) for name, path in files_in(checkpoint).items()}
    temporary = checkpoint / f".{SEAL}"
    temporary.write_text(json.dumps({"held_out_loss": held_out_loss, "files": files}))
    _sync(temporary)
    temporary.rename(checkpoint / SEAL)
    _sync(checkpoint)


def newest_whole(folder: Path) -> Path | None:
    """Return the newest checkpoint in `folder` whose every byte is as sealed; None without one.

    Damaged ones are removed with a warning: the trainer will write the same steps again.
    """
    for checkpoint in sorted(folder.glob("checkpoint-*"), key=step_of, reverse=True):
        defect = defect_of(checkpoint)
        if defect is None:
            return checkpoint
        logger.warning("%s is not used: %s; going back to the one before", checkpoint, defect)
        remove(checkpoint)
    return None


def newest_sealed(folder: Path) -> Path | None:
    """Return the newest checkpoint that was written to its end; it is not read."""
    sealed = (path for path in folder.glob("checkpoint-*") if (path / SEAL).exists())
    return max(sealed, key=step_of, default=None)


def defect_of(checkpoint: Path) -> str | None:
    """Return what is wrong with a checkpoint, None if nothing is."""
    try:
        files = json.loads((checkpoint / SEAL).read_text())["files"]
    except FileNotFoundError:
        return "its writing was interrupted"
    except (ValueError, KeyError, TypeError):
        return f"its {SEAL} is unreadable"
    for name, expected in files.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != expected["bytes"]:
            return f"{name} has {path.stat().st_size} bytes instead of {expected['bytes']}"
        if _size_and_hash(path) != expected:
            return f"{name} was changed"
    return None


def retain(folder: Path) -> None:
    """Remove all sealed checkpoints but the last two and the one of the lowest held-out loss."""
    by_step = sorted(folder.glob("checkpoint-*"), key=step_of)
    losses = {path: loss_of(path) for path in by_step if (path / SEAL).exists()}
    best = min(losses, key=lambda path: losses[path], default=None)
    for path in by_step[:-NEWEST_COUNT]:
        if path != best:
            remove(path)


def loss_of(checkpoint: Path) -> float:
    return json.loads((checkpoint / SEAL).read_text())["held_out_loss"]


def _size_and_hash(path: Path, sync: bool = False) -> dict[str, int | str]:
    if sync:
        _sync(path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
