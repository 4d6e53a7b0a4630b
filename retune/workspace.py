"""Work folders: where stages leave their outputs, so that each appears whole or not at all.

A finished output is a folder `<home>/work/<stage>/<fingerprint>/` with an `output.json` that names
the configuration and the inputs that made it. It is built next to it, in `<fingerprint>.partial`, and
renamed when done.

What retune may delete again carries a marker from the moment it is made, and `remove` is the one
function that deletes: it takes nothing that does not lie in such a folder.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from retune.errors import RetuneError
from retune.measures import format_bytes

LEAST_ROOM = 64 * 2**20  # bytes
MARKER = ".made-by-retune"  # in a folder whose contents retune may remove


class OutputBusy(RetuneError):
    """Another process is building the same output."""


class NoSpaceLeft(RetuneError, OSError):
    """The disk is too full to continue."""

    def __str__(self) -> str:
        return self.strerror or super().__str__()  # without the number, which is for programs


class BadName(RetuneError):
    """The path of a folder has a character with which it cannot be used."""


class NotOurs(RetuneError):
    """Something that retune did not make stands where it would write or remove."""


def home() -> Path:
    """Folder of everything retune writes: $RETUNE_HOME, else `.retune` below the current folder."""
    return Path(os.environ.get("RETUNE_HOME") or ".retune").absolute()


def is_home(path: Path) -> bool:
    """Tell whether a path is a name of the home folder, such as a link to it."""
    try:
        return path == home() or path.samefile(home())
    except OSError:  # one of them is not there
        return False


def work() -> Path:
    """Folder of the stages' outputs: $RETUNE_WORK, else `work` in the home folder.

    A run that must make everything anew, whatever is there, has a folder of its own.
    """
    folder = os.environ.get("RETUNE_WORK")
    return Path(folder).absolute() if folder else home() / "work"


# Of a path: what libraries that read files take for a pattern, and SQLite's addresses for a question;
# what no log or page can show.
_UNUSABLE = re.compile(r"[*?\[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def own_home() -> Path:
    """Return the home folder. Raises NotOurs for one that holds all that the user has, and BadName."""
    for variable, path in (("RETUNE_HOME", home()), ("RETUNE_WORK", work())):
        if character := _UNUSABLE.search(str(path)):
            raise BadName(
                f"{variable}: {character[0]!r} stands in {str(path)!r}, which some of the programs that "
                f"read files there take for something else; name a folder without it"
            )
    folder, user = home().resolve(), _users_home()
    if folder in (user, *user.parents):
        raise NotOurs(
            f"RETUNE_HOME={home()} would mix retune's files with everything that is there; name a "
            f"folder for them alone, e.g. {user / '.retune'}"
        )
    return home()


def make_home() -> Path:
    """Return the home folder; if it is not there, it is made for its owner's eyes alone (0700).

    One that is there keeps its permissions, which may be wider on purpose: `retune doctor` tells.
    Raises NotOurs and BadName, see `own_home`.
    """
    folder = own_home()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def lock_file(name: str) -> Path:
    """Return the file of a lock that processes of this home folder have in common."""
    folder = make_home() / "locks"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder / f"{name}.lock"


def keep_private() -> None:
    """Let what this process and its children write be read by their owner alone (umask 077)."""
    os.umask(0o077)


def _users_home() -> Path:
    # Path.home() raises for a user without a name, as in many containers.
    return Path(os.path.expanduser("~")).resolve()  # noqa: PTH111


def mark(folder: Path) -> Path:
    """Return `folder`, made if need be, as one whose contents retune may remove.

    Raises NotOurs if it holds anything that came before the marker.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not is_marked(folder.resolve()):
        if entry := next(folder.iterdir(), None):
            raise NotOurs(
                f"{folder} holds {entry.name!r:.80}, which retune did not make; name another folder"
            )
        (folder / MARKER).touch()
    return folder


def is_marked(folder: Path) -> bool:
    """Tell whether retune made `folder`. A link to a folder is not one."""
    return (folder / MARKER).is_file() and not folder.is_symlink()


def remove(path: Path) -> None:
    """Remove a file, a link or a folder, if it is there; links are not followed.

    Raises NotOurs unless it is, or lies in, a folder that retune made; and for one that holds the
    home folder, retune's or the user's.
    """
    if not os.path.lexists(path):
        return
    # The way to it is resolved, so that neither `..` nor a link leads out of the marked folder.
    place = path.parent.resolve() / path.name if path.name not in ("", "..") else path.resolve()
    if any(protected.is_relative_to(place) for protected in (home().resolve(), _users_home())):
        raise NotOurs(f"{path} is not removed: {place} holds more than retune made")
    if not any(map(is_marked, (place, *place.parents))):
        raise NotOurs(f"{path} is not removed: retune did not make it ({MARKER} is not there)")
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink()


def cache_dir() -> Path:
    """Folder of built tools, shared by all projects of a user: `$XDG_CACHE_HOME/retune`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "retune"


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
        return (self.folder / "output.json").is_file()


class Output(BaseModel):
    """What a finished stage hands on: its folder, and what MLflow is to know of it.

    Paths are relative to `folder`: `files` are small and stored by MLflow, `history` is a JSONL
    file of metrics by step, `models` are large files or folders that are logged by path, size and
    sha256. `started` is UTC, `seconds` wall time.
    """

    # What is measured may be no number, and must be read back as measured.
    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants")

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


MAKER = "made-by.json"  # in a finished output: the MLflow run that made it
REJECTED = "rejected.json"  # in a finished output that failed its gate: why


def read_output(step: Step, kind: type[SomeOutput]) -> SomeOutput:
    """Return the record of a finished output."""
    return kind.model_validate_json((step.folder / "output.json").read_text())


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

    def finish(self, kind: type[SomeOutput], **fields: Any) -> SomeOutput:
        """Return the record of this output and write it next to the files."""
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


def no_space_left(folder: Path, error: Exception) -> NoSpaceLeft:
    """Return the error that tells a person which disk is full and what to do."""
    free = shutil.disk_usage(folder.parent).free
    return NoSpaceLeft(
        errno.ENOSPC,
        f"no space left in {folder.parent} ({format_bytes(free)} free): free some, or set RETUNE_HOME "
        f"to a folder on a larger disk; finished stages are kept",
    )


# What programs of several languages say of a full disk; some of them drop the number of the error.
DISK_FULL = r"No space left on device|Disk quota exceeded|iostream error|basic_ios::clear"
_FULL = re.compile(rf"{DISK_FULL}|os error 28\b|database or disk is full|unexpected pos \d+ vs")


def is_disk_full(error: BaseException | None) -> bool:
    """Tell whether an error, or one that it comes from, says that a disk is full."""
    while error:
        number = error.errno if isinstance(error, OSError) else None
        if number in (errno.ENOSPC, errno.EDQUOT) or _FULL.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def require_room_to_begin() -> None:
    """Raise NoSpaceLeft if the home folder has no room for what any run writes: databases and logs."""
    free = shutil.disk_usage(make_home()).free
    if free < LEAST_ROOM:
        raise NoSpaceLeft(
            errno.ENOSPC,
            f"a run takes at least {format_bytes(LEAST_ROOM)} for its databases and logs, "
            f"{format_bytes(free)} are free in {home()}: free some, or set RETUNE_HOME to a folder on a "
            f"larger disk",
        )


def require_space(folder: Path, count: int, subject: str, setting: str) -> None:
    """Raise NoSpaceLeft unless `count` bytes are free in `folder`; `setting` would make it less."""
    free = shutil.disk_usage(folder).free
    if count > free:
        raise NoSpaceLeft(
            errno.ENOSPC,
            f"{subject} takes {format_bytes(count)}, {format_bytes(free)} are free in {folder}: free "
            f"some, set RETUNE_HOME to a folder on a larger disk, or lower {setting}",
        )


def write_json(path: Path, value: Any) -> None:
    """Write `value` for people to read."""
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False))


def write_whole(path: Path, text: str) -> None:
    """Write `text` to `path` so that a reader sees the old file or the new one, never a part."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
        file.write(text)
    Path(file.name).replace(path)


def digest(value: Any) -> str:
    """Return 16 hex digits that identify `value` (anything JSON can hold)."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def sha256(path: Path) -> str:
    """Return the sha256 of a file, or of a folder's file names and contents.

    Hidden files are not of a folder's contents: what git, a download or an editor notes there.
    """
    if path.is_dir():
        listing = {name: sha256(file) for name, file in files_in(path).items() if file.is_file()}
        return hashlib.sha256(json.dumps(listing).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_in(folder: Path) -> dict[str, Path]:
    """Return what is below a folder by its path there, in order, but for what is hidden."""
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*"))}
    return {name: path for name, path in files.items() if "/." not in f"/{name}"}


def size(path: Path) -> int:
    """Return the bytes in a file or folder."""
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size
