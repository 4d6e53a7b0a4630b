"""Outputs of stages: what each is, and where.

A finished output is a folder `<home>/work/<stage>/<fingerprint>/` with an `output.json` that names
the configuration and the inputs that made it (see `retune.building`).

With a store (RETUNE_STORE) a finished output is published there under the same name, one that another
machine made counts as done, and its files come to this machine when they are first asked for.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from retune.files import digest, files_in, sha256, write_whole
from retune.home import mark, remove, work
from retune.manifest import MAKER, RECORD, REJECTED, FileEntry, Manifest, below, entry_of
from retune.measures import format_duration
from retune.store import cache, sharing, transfer
from retune.store.place import Store, StoreError, store

NAME = r"[a-z][a-z0-9_-]*/[0-9a-f]{16}"  # of an output's folder: stage and fingerprint


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
        """Whether its output is there, on this machine or in the store."""
        return is_done(self.name)


def is_done(name: str) -> bool:
    """Tell whether the output `<stage>/<fingerprint>` is there, on this machine or in the store."""
    return (work() / name / RECORD).is_file() or sharing.is_shared(name)


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
        """The folder on this machine, with all that is in it (see `here`)."""
        return here(self.step.name)

    @contextmanager
    def some(self, *names: str) -> Iterator[Path]:
        """Give a folder in which some of the files and folders lie, for the length of a block: small
        ones of an output that this machine has no other use for."""
        shared, folder = held(self.step)
        if shared is None or not _is_elsewhere(self.step):
            yield folder
            return
        from retune.temporary import temporary_folder

        with temporary_folder() as parent:
            part = mark(parent / "part")
            place = transfer.contents(self.step.name, self.manifest)
            transfer.copy_files(shared, place, part, below(self.manifest, *names))
            yield part

    def uri(self, name: str) -> str:
        """Return where a file or folder of the output is: in the store, or on this machine."""
        shared = store()
        if shared and self.manifest and sharing.is_shared(self.step.name):
            return shared.uri(f"{transfer.contents(self.step.name, self.manifest)}/{name}")
        return (self.step.folder / name).as_uri()

    @property
    def ended(self) -> datetime:
        return self.started + timedelta(seconds=self.seconds)

    @property
    def origin(self) -> str:
        """When the output was made, and how long that took, in words."""
        return f"made {self.started:%Y-%m-%d %H:%M} UTC in {format_duration(self.seconds)}"

    def entry(self, name: str) -> FileEntry:
        """Return the bytes and sha256 of a file or folder of the output, as noted when it was made.

        It is read if nothing was noted, or if its size is another by now.
        """
        noted = entry_of(self.manifest, name)
        if noted and _is_elsewhere(self.step):
            return noted
        path = self.folder / name
        count = _bytes(path)
        if noted and noted.bytes == count:
            return noted
        return FileEntry(bytes=count, sha256=sha256(path))


SomeOutput = TypeVar("SomeOutput", bound=Output)


def read_output(step: Step, kind: type[SomeOutput]) -> SomeOutput:
    """Return the record of a finished output."""
    shared, folder = held(step)
    content = None
    if shared and not (folder / RECORD).is_file():
        content = shared.read(f"{step.name}/{RECORD}")
        if content is None:
            sharing.known.discard((shared.address, step.name))
            raise StoreError(f"{shared.uri(step.name)} is not there any more: run again")
    return kind.model_validate_json(content or (folder / RECORD).read_bytes())


def step_of(name: str) -> Step | None:
    """Return the step that made the output `<stage>/<fingerprint>`, whatever code did; None if it is not
    there."""
    stage, _, fingerprint = name.partition("/")
    if not re.fullmatch(NAME, name) or not is_done(name):
        return None
    shared, record = store(), work() / name / RECORD
    content = (
        record.read_bytes() if record.is_file() else shared and shared.read(f"{name}/{RECORD}")
    )
    step = _Record.model_validate_json(content).step if content else None
    return step if step and (step.stage, step.fingerprint) == (stage, fingerprint) else None


class _Record(BaseModel):
    """What the record of any output says of its step."""

    step: Step


def settled(output: SomeOutput) -> SomeOutput:
    """Return the record that counts of an output that was just made: another machine may have been
    first, whose output it is then."""
    return read_output(output.step, type(output)) if store() and output.step.done else output


def here(name: str) -> Path:
    """Return the folder of an output `<stage>/<fingerprint>` on this machine; if it is not there and
    the store has it, it is copied first, and stays until this process ends. Raises StoreError."""
    shared, folder = store(), work() / name
    if shared is not None and re.fullmatch(NAME, name):
        cache.hold(folder)
        if not (folder / RECORD).is_file():
            sharing.pull(shared, name, folder)
    return folder


def mark_rejected(step: Step, reasons: list[str]) -> None:
    """Note in a finished output why it failed its gate; no reasons: that it passed."""
    note, text = step.folder / REJECTED, json.dumps(reasons, indent=1, ensure_ascii=False)
    if reasons and note.parent.is_dir():
        write_whole(note, text)
    elif not reasons:
        remove(note)
    if (shared := store()) and sharing.is_shared(step.name):
        name = f"{step.name}/{REJECTED}"
        shared.write(name, text.encode()) if reasons else shared.remove([name])


def is_rejected(step: Step) -> bool:
    """Tell whether a finished output failed its gate when it was judged last, wherever that was."""
    if (shared := store()) and sharing.is_shared(step.name):
        return shared.has(f"{step.name}/{REJECTED}")
    return (step.folder / REJECTED).is_file()


def note_maker(step: Step, run_id: str) -> None:
    """Note in a finished output which MLflow run made it, if none is noted. Raises OSError."""
    text = json.dumps({"run": run_id})
    if step.folder.is_dir() and not (step.folder / MAKER).exists():  # two runs waited for it
        write_whole(step.folder / MAKER, text)
    if (shared := store()) and sharing.is_shared(step.name):
        shared.create(f"{step.name}/{MAKER}", text.encode())


def maker(step: Step) -> str:
    """Return the id of the MLflow run that made an output, "" if none noted that it did."""
    shared, note = store(), step.folder / MAKER
    try:
        content = None if shared is None else shared.read(f"{step.name}/{MAKER}")
        return str(json.loads(content or note.read_bytes())["run"])
    except (OSError, StoreError, ValueError, LookupError, TypeError):
        return ""


def offer(step: Step) -> None:
    """Publish an output of this machine that the store has not: it was made before there was a store,
    or the process ended before it was sent."""
    from filelock import FileLock

    shared, folder = held(step)
    if shared is not None and (folder / RECORD).is_file():
        with FileLock(folder.with_name(folder.name + ".lock")):
            sharing.share(shared, step.name, folder)


def _bytes(path: Path) -> int:
    """Return the bytes in a file, or in those files of a folder that are not hidden."""
    if path.is_dir():
        return sum(file.stat().st_size for file in files_in(path).values())
    return path.stat().st_size


def _is_elsewhere(step: Step) -> bool:
    """Tell whether the store has an output that this machine has not."""
    return not (step.folder / RECORD).is_file() and sharing.is_shared(step.name)


def held(step: Step) -> tuple[Store | None, Path]:
    """Return the store, and the output's folder on this machine, which stays as it is meanwhile."""
    shared = store()
    if shared is not None:
        cache.hold(step.folder)
    return shared, step.folder
