"""Work folders: where stages leave their outputs, so that each appears whole or not at all.

A finished output is a folder `<home>/work/<stage>/<fingerprint>/` with an `output.json` that names
the configuration and the inputs that made it. It is built beside, in `<fingerprint>.partial`, and
renamed when done.
"""

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict


class OutputBusy(RuntimeError):
    """Another process is building the same output."""


class NoSpaceLeft(OSError):
    """The disk is too full to go on."""


def home() -> Path:
    """Folder of everything retune writes: $RETUNE_HOME, else `.retune` below the current folder."""
    return Path(os.environ.get("RETUNE_HOME") or ".retune").absolute()


def cache_dir() -> Path:
    """Folder of built tools, shared by all projects of a user: `$XDG_CACHE_HOME/retune`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "retune"


class Step(BaseModel):
    """One stage of one plan: its name and everything that determines its output."""

    model_config = ConfigDict(frozen=True)

    stage: str
    key: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        return digest(self.key)

    @property
    def name(self) -> str:
        """`<stage>/<fingerprint>`: the folder below the work folder."""
        return f"{self.stage}/{self.fingerprint}"

    @property
    def folder(self) -> Path:
        return home() / "work" / self.name

    @property
    def done(self) -> bool:
        """Whether its output is there."""
        return (self.folder / "output.json").is_file()


class Output(BaseModel):
    """What a finished stage hands on: its folder, and what MLflow is to know of it.

    Paths are relative to `folder`: `files` are small and stored by MLflow, `history` is a JSONL
    file of metrics by step, `models` are large files or folders that are logged by path, size and
    sha256. `started` is UTC, `seconds` wall time.
    """

    model_config = ConfigDict(frozen=True)

    step: Step
    metrics: dict[str, float] = {}
    params: dict[str, str] = {}
    files: tuple[str, ...] = ()
    history: str | None = None
    models: tuple[str, ...] = ()
    started: datetime
    seconds: float

    @property
    def folder(self) -> Path:
        return self.step.folder

    @property
    def ended(self) -> datetime:
        return self.started + timedelta(seconds=self.seconds)


SomeOutput = TypeVar("SomeOutput", bound=Output)


class Build:
    """An output under construction; `path` is the folder to write into."""

    def __init__(self, step: Step, path: Path) -> None:
        self.step, self.path = step, path
        self._started = datetime.now(UTC)

    def finish(self, kind: type[SomeOutput], **fields: Any) -> SomeOutput:
        """Return the record of this output and write it beside the files."""
        seconds = (datetime.now(UTC) - self._started).total_seconds()
        output = kind(step=self.step, started=self._started, seconds=seconds, **fields)
        (self.path / "output.json").write_text(output.model_dump_json(indent=1))
        return output


@contextmanager
def building(step: Step, keep_partial: bool = False) -> Iterator[Build]:
    """Build `step`'s output folder; it appears under its own name when the block ends well.

    After a failure only `*.log` files stay in the partial folder, until the next attempt. With
    `keep_partial` all of it stays and is handed out again (training resumes from the checkpoints
    in it). Raises OutputBusy while another process builds the same output, NoSpaceLeft when the
    disk is full.
    """
    from filelock import FileLock, Timeout

    final = step.folder
    partial = final.with_name(final.name + ".partial")
    final.parent.mkdir(parents=True, exist_ok=True)
    try:
        # A kernel lock goes with its process, also when that is killed; a lock file would stay.
        with FileLock(final.with_name(final.name + ".lock"), timeout=0):
            if not keep_partial:
                shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(exist_ok=True)
            try:
                yield Build(step, partial)
            except BaseException:
                if not keep_partial:
                    _keep_logs(partial)
                raise
            shutil.rmtree(final, ignore_errors=True)
            partial.rename(final)
    except Timeout:
        raise OutputBusy(
            f"another run is building {step.name}; wait for it and run again: its output is reused"
        ) from None
    except OSError as error:
        if isinstance(error, NoSpaceLeft) or error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise no_space_left(final, error) from error


def _keep_logs(partial: Path) -> None:
    """Remove what a failed attempt left, which may be large, but for the logs that say why."""
    for path in partial.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.suffix != ".log":
            path.unlink()
    if not any(partial.iterdir()):
        partial.rmdir()


def no_space_left(folder: Path, error: OSError) -> NoSpaceLeft:
    """Return the error that tells a person which disk is full and what to do."""
    free = shutil.disk_usage(folder.parent).free
    return NoSpaceLeft(
        errno.ENOSPC,
        f"no space left in {folder.parent} ({free / 2**30:.1f} GiB free): free some, or set RETUNE_HOME "
        f"to a folder on a larger disk; finished stages are kept",
    )


def in_words(count: float) -> str:
    """Return a number of bytes as a person reads it."""
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.1f} MiB"


def require_space(folder: Path, count: int, what: str, setting: str) -> None:
    """Raise NoSpaceLeft unless `count` bytes are free in `folder`; `setting` would make it less."""
    free = shutil.disk_usage(folder).free
    if count > free:
        raise NoSpaceLeft(
            errno.ENOSPC,
            f"{what} takes {in_words(count)}, {in_words(free)} are free in {folder}: free some, "
            f"set RETUNE_HOME to a folder on a larger disk, or lower {setting}",
        )


def write_whole(path: Path, text: str) -> None:
    """Write `text` to `path` so that a reader sees the old file or the new one, never a part."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
        file.write(text)
    Path(file.name).replace(path)


def digest(value: Any) -> str:
    """Return 16 hex digits that stand for `value` (anything JSON can hold)."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def sha256(path: Path) -> str:
    """Return the sha256 of a file, or of a folder's file names and contents."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        listing = {str(file.relative_to(path)): sha256(file) for file in files}
        return hashlib.sha256(json.dumps(listing).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def size(path: Path) -> int:
    """Return the bytes in a file or folder."""
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size
