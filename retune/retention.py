"""What may go of the work folder, and why the rest stays.

It stays what a version that serves, or may serve again, was made of, what a run that is open builds or
may go on from, and what the newest runs made. All of it is asked of MLflow, and of the locks that
builders hold: nothing is known by its name alone.
"""

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from retune import registry
from retune.home import is_marked, remove, work
from retune.processes import is_gone
from retune.registry.candidates import FILE
from retune.store.cache import in_use
from retune.store.transfer import PULLING
from retune.tracking import DECISION, PROCESS, every_run

if TYPE_CHECKING:
    from mlflow.entities import Run as StoredRun

DAY = 24 * 3600
PLANNED = "retune.planned"  # tag of a run: the outputs that it makes or reuses, also those to come
STEP = "retune.step."  # tags of runs: the fingerprint of each stage's output
WAITING = "AwaitingApproval"


def waits(tags: Mapping[str, str]) -> bool:
    """Tell by the tags of a run, or of a version, whether it waits for an approval."""
    return tags.get(DECISION, "").startswith(WAITING)


class Retention(BaseModel):
    """How long outputs stay that no version needs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    keep_runs: int = Field(
        3, ge=0, le=10_000, description="Newest finished runs of each recipe whose outputs stay."
    )
    keep_days: float = Field(
        2,
        ge=0,
        le=10_000,
        description="Days since an output was made in which it stays, whoever needs it.",
    )
    checkpoint_days: float = Field(
        14,
        ge=0,
        le=10_000,
        description="Days that the checkpoints of a training that did not end stay, to go on from.",
    )


class OutputFolder(NamedTuple):
    """A folder below the work folder: the bytes that its removal frees, and why it may go or stays."""

    folder: Path
    bytes: int
    reason: str


class Inventory(NamedTuple):
    """All folders of outputs: those that may go, and those that stay."""

    leftovers: tuple[OutputFolder, ...]
    kept: tuple[OutputFolder, ...]

    @property
    def freed(self) -> int:
        """The bytes that are free when all leftovers are gone."""
        return sum(leftover.bytes for leftover in self.leftovers)


def inventory(retention: Retention) -> Inventory:
    """Look at every output in the work folder; changes nothing."""
    wanted = dict(needed(retention))
    leftovers: list[OutputFolder] = []
    kept: list[OutputFolder] = []
    for folder in sorted(_folders()):
        why = _stays(folder, wanted, retention)
        count = _bytes(folder)
        if why:
            kept.append(OutputFolder(folder, count, why))
        else:
            leftovers.append(OutputFolder(folder, count, _leftover(folder, retention)))
    return Inventory(tuple(leftovers), tuple(kept))


def collect(leftovers: Iterable[OutputFolder], retention: Retention) -> list[OutputFolder]:
    """Remove leftovers, each under its builder's lock, and return those that are gone.

    What a run has begun to need meanwhile stays, and what a process uses.
    """
    from filelock import FileLock, Timeout

    gone = []
    wanted = dict(needed(retention))
    for leftover in leftovers:
        try:
            if _stays(leftover.folder, wanted, retention):
                continue
            with FileLock(_lock(leftover.folder), timeout=0):
                if in_use(leftover.folder):
                    continue
                remove(leftover.folder)
        except (Timeout, FileNotFoundError):  # somebody builds it, or has removed it
            continue
        gone.append(leftover)
    return gone


def _folders() -> Iterator[Path]:
    """Yield finished and partial outputs, of stages that retune made."""
    if not work().is_dir():
        return
    for stage in work().iterdir():
        if is_marked(stage):
            yield from (path for path in stage.iterdir() if path.is_dir() and not path.is_symlink())


def needed(retention: Retention) -> Iterator[tuple[str, str]]:
    """Yield `<stage>/<fingerprint>` of what runs and versions need, with what for."""
    runs = list(every_run())
    parents = {run.info.run_id: run for run in runs}
    newest: dict[str, int] = {}
    reasons: dict[str, str] = {}
    for run in sorted(runs, key=lambda run: run.info.start_time, reverse=True):
        if "mlflow.parentRunId" in run.data.tags:
            continue
        name = run.data.params.get("name", "")
        if _may_go_on(run, name not in newest, retention):
            reasons[run.info.run_id] = f"{run.info.run_name}, which is open or may be run again"
        elif waits(run.data.tags):
            reasons[run.info.run_id] = f"{run.info.run_name}, which waits for an approval"
        elif run.info.status == "FINISHED":
            newest[name] = newest.get(name, 0) + 1
            if newest[name] <= retention.keep_runs:
                reasons[run.info.run_id] = f"run {newest[name]} from the newest of {name}"
    for name in registry.names():
        for version in registry.versions(name):
            if not version.aliases:
                continue
            words = f"{version}, the {' and '.join(version.aliases)}"
            reasons.setdefault(version.run_id, words)
            yield from ((step, words) for step in _of_version(version.tags))
    for run in runs:
        owner = run.data.tags.get("mlflow.parentRunId", run.info.run_id)
        if owner in reasons and owner in parents:
            yield from ((step, reasons[owner]) for step in _of_run(run))


def _may_go_on(run: "StoredRun", is_last: bool, retention: Retention) -> bool:
    """Tell whether a run works, or ended early and is its recipe's last word (`is_last`) so far.

    Of one that lost its process, or ended early, that is so as long as its checkpoints stay.
    """
    if run.info.status == "RUNNING" and not is_gone(run.data.tags.get(PROCESS, "? 0 0")):
        return True
    age = (time.time() - run.info.start_time / 1000) / DAY
    ended_early = run.info.status in ("RUNNING", "FAILED", "KILLED")
    return ended_early and is_last and age < retention.checkpoint_days


def _of_run(run: "StoredRun") -> Iterator[str]:
    yield from filter(None, run.data.tags.get(PLANNED, "").split(","))
    for key, value in run.data.tags.items():
        if key.startswith(STEP):
            yield f"{key.removeprefix(STEP)}/{value}"


def _of_version(tags: dict[str, str]) -> Iterator[str]:
    """Yield what a version was made of; its files and evaluation may be of later runs than its own."""
    for key, stage in (
        ("adapter", "train"),
        ("select", "select"),
        ("evaluate", "evaluate"),
        ("merge", "merge"),
    ):
        if f"retune.{key}" in tags:
            yield f"{stage}/{tags[f'retune.{key}']}"
    for key, value in tags.items():
        if key.startswith(FILE):
            yield json.loads(value)["folder"]


def _stays(folder: Path, wanted: dict[str, str], retention: Retention) -> str:
    """Return why a folder stays, nothing if it may go."""
    name = f"{folder.parent.name}/{folder.name.removesuffix('.partial')}"
    if name in wanted:
        return wanted[name]
    if _is_locked(folder):
        return "a run builds it"
    age, limit, words = _age(folder), retention.keep_days, "made lately"
    if is_training(folder):
        limit, words = retention.checkpoint_days, "checkpoints to go on from"
    return f"{words} ({age:.1f} of {limit:g} days)" if age < limit else ""


def is_training(folder: Path) -> bool:
    """Tell whether a folder is of a training that did not end, and may go on from its checkpoints."""
    return folder.name.endswith(".partial") and (folder / "checkpoints").is_dir()


def _leftover(folder: Path, retention: Retention) -> str:
    age = f"{_age(folder):.1f} days old"
    if is_training(folder):
        return f"checkpoints of a training that did not end, {age}"
    if folder.name.endswith(PULLING):
        return f"a copy from the store that was not finished, {age}"
    if folder.name.endswith(".partial"):
        return f"logs of a stage that failed, {age}"
    return f"no version and none of the {retention.keep_runs} newest runs needs it, {age}"


def _lock(folder: Path) -> Path:
    return folder.with_name(folder.name.removesuffix(".partial") + ".lock")


def _is_locked(folder: Path) -> bool:
    from filelock import FileLock, Timeout

    if not _lock(folder).exists():
        return False
    try:
        with FileLock(_lock(folder), timeout=0):
            return False
    except Timeout:
        return True


def _age(folder: Path) -> float:
    """Return the days since anything in a folder was written."""
    times = [path.lstat().st_mtime for path in (folder, *folder.iterdir())]
    return max(0.0, time.time() - max(times)) / DAY


def _bytes(folder: Path) -> int:
    """Return what removing a folder frees: a file that is linked elsewhere, as what serves is, stays."""
    count = 0
    for root, _, files in os.walk(folder):
        for file in files:
            status = (Path(root) / file).lstat()
            count += status.st_blocks * 512 if status.st_nlink == 1 else 0
    return count
