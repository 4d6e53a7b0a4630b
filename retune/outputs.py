"""Outputs of stages: folders that appear whole or not at all.

A finished output is a folder `<home>/work/<stage>/<fingerprint>/` with an `output.json` that names
the configuration and the inputs that made it. It is built next to it, in `<fingerprint>.partial`, and
renamed when done.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from retune.disk_space import is_disk_full, no_space_left
from retune.errors import RetuneError
from retune.files import digest, files_in, sha256, write_whole
from retune.home import MARKER, make_home, mark, remove, work
from retune.manifest import NOTHING, FileEntry, Manifest, entry_of, manifest_of

RECORD = "output.json"  # in a finished output, and nowhere else: what it is
MAKER = "made-by.json"  # in a finished output: the MLflow run that made it
REJECTED = "rejected.json"  # in a finished output that failed its gate: why


class OutputBusy(RetuneError):
    """Another process is building the same output."""


class Step(BaseModel):
    """One stage of one plan: its name and everything that determines its output."""

    model_config = ConfigDict(frozen=True)

    stage: str = Field(pattern="^[a-z][a-z0-9_-]*$")  # it names a folder
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
        return work() / self.name

    @property
    def done(self) -> bool:
        """Whether its output is there."""
        return (self.folder / RECORD).is_file()


class Output(BaseModel):
    """What a finished stage hands on: its folder, and what MLflow is to know of it.

    Paths are relative to `folder`: `files` are small and stored by MLflow, `history` is a JSONL
    file of metrics by step, `models` are large files or folders that are logged by path, size and
    sha256. `manifest` lists all files (empty in outputs of before there were manifests). `started` is
    UTC, `seconds` wall time.
    """

    # What is measured may be no number, and must be read back as measured.
    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants")

    step: Step
    metrics: dict[str, float] = {}
    params: dict[str, str] = {}
    files: tuple[str, ...] = ()
    history: str | None = None
    models: tuple[str, ...] = ()
    manifest: Manifest = {}
    started: datetime
    seconds: float

    @property
    def folder(self) -> Path:
        return self.step.folder

    @property
    def ended(self) -> datetime:
        return self.started + timedelta(seconds=self.seconds)

    def entry(self, name: str) -> FileEntry:
        """Return the bytes and sha256 of a file or folder of the output, as noted when it was made.

        It is read if nothing was noted, or if its size is another by now.
        """
        path = self.folder / name
        noted, count = entry_of(self.manifest, name), _bytes(path)
        if noted and noted.bytes == count:
            return noted
        return FileEntry(bytes=count, sha256=sha256(path))


SomeOutput = TypeVar("SomeOutput", bound=Output)


def read_output(step: Step, kind: type[SomeOutput]) -> SomeOutput:
    """Return the record of a finished output."""
    return kind.model_validate_json((step.folder / RECORD).read_text())


def mark_rejected(step: Step, reasons: list[str]) -> None:
    """Note in a finished output why it failed its gate; no reasons: that it passed."""
    note = step.folder / REJECTED
    if reasons:
        write_whole(note, json.dumps(reasons, indent=1, ensure_ascii=False))
    else:
        remove(note)


def note_maker(step: Step, run_id: str) -> None:
    """Note in a finished output which MLflow run made it, if none is noted. Raises OSError."""
    if (step.folder / MAKER).exists():  # two runs waited for it
        return
    write_whole(step.folder / MAKER, json.dumps({"run": run_id}))


def maker(step: Step) -> str:
    """Return the id of the MLflow run that made an output, "" if none noted that it did."""
    try:
        return str(json.loads((step.folder / MAKER).read_text())["run"])
    except (OSError, ValueError, LookupError, TypeError):
        return ""


def is_rejected(step: Step) -> bool:
    """Tell whether a finished output failed its gate when it was judged last."""
    return (step.folder / REJECTED).is_file()


class Build:
    """An output under construction; `path` is the folder to write into."""

    def __init__(self, step: Step, path: Path) -> None:
        self.step, self.path = step, path
        self._started = datetime.now(UTC)

    def finish(
        self, kind: type[SomeOutput], hashed: Mapping[str, str] = NOTHING, **fields: Any
    ) -> SomeOutput:
        """Return the record of this output and write it next to the files, which stay as they are.

        `hashed` are the sha256 of files that were hashed already, by their paths in the folder.
        """
        manifest = manifest_of(self.path, hashed)
        manifest.pop(RECORD, None)  # of an attempt that ended just before its output appeared
        seconds = (datetime.now(UTC) - self._started).total_seconds()
        output = kind(
            step=self.step, manifest=manifest, started=self._started, seconds=seconds, **fields
        )
        (self.path / RECORD).write_text(output.model_dump_json(indent=1))
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
    make_home()
    _mark_stage(final.parent)
    try:
        # A kernel lock goes with its process, also when that is killed; a lock file would stay.
        with FileLock(final.with_name(final.name + ".lock"), timeout=0):
            if not keep_partial:
                remove(partial)
            partial.mkdir(exist_ok=True)
            try:
                yield Build(step, partial)
            except BaseException:
                if not keep_partial:
                    _keep_logs(partial)
                raise
            remove(final)
            partial.rename(final)
    except Timeout:
        raise OutputBusy(
            f"another run is building {step.name}; wait for it and run again: its output is reused"
        ) from None
    except Exception as error:
        if isinstance(error, RetuneError) or not is_disk_full(error):
            raise
        raise no_space_left(final, error) from error


def _mark_stage(folder: Path) -> None:
    """Make and mark the folder of a stage's outputs; one of before there were markers is known by
    the names in it. Raises NotOurs."""
    folder.mkdir(parents=True, exist_ok=True)
    if all(
        re.fullmatch(r"[0-9a-f]{16}(\.partial|\.lock)?", path.name) for path in folder.iterdir()
    ):
        (folder / MARKER).touch()
    mark(folder)


def _keep_logs(partial: Path) -> None:
    """Remove what a failed attempt left, which may be large, but for the logs that say why."""
    for path in partial.iterdir():
        if path.is_dir() or path.suffix != ".log" or not path.stat().st_size:
            remove(path)
    if not any(partial.iterdir()):
        partial.rmdir()


def _bytes(path: Path) -> int:
    """Return the bytes in a file, or in those files of a folder that are not hidden."""
    if path.is_dir():
        return sum(file.stat().st_size for file in files_in(path).values() if file.is_file())
    return path.stat().st_size
