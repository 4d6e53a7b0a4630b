"""Run one llama.cpp program quietly, and say in one message what went wrong."""

import errno
import os
import re
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile

from retune.disk_space import DISK_FULL, no_space_left
from retune.environment import plain
from retune.errors import ProgramFailed
from retune.parent import ending_with_us
from retune.time_limit import remaining, require_time

SHOWN_LINES = 8
# The programs drop errno: a failed write of llama-quantize reads "iostream error", one of numpy
# "8 requested and 4 written".
FULL = re.compile(rf"{DISK_FULL}|\d+ requested and \d+ written")
# Ended by a person, a scheduler or the kernel; a fault of the input ends in SIGSEGV or SIGABRT.
FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
MEMORY_SHORT = re.compile(r"bad_alloc|Cannot allocate memory|(?:failed|unable) to allocate")


class LlamaCppFailed(ProgramFailed):
    """A llama.cpp program failed; the message carries its last lines."""


class LlamaCppStopped(LlamaCppFailed):
    """A program was ended from outside or found no memory: its input may be sound."""


class LlamaCppEnded(LlamaCppStopped):
    """A program was ended from outside, by a person, a scheduler or the kernel."""


@dataclass(frozen=True)
class Finished:
    """What a program that ended well has printed."""

    stdout: str
    stderr: str


def run(
    command: Sequence[str | Path],
    *,
    stdin: bytes = b"",
    writes_to: Path | None = None,
    cwd: Path | None = None,
    failure: type[LlamaCppFailed] = LlamaCppFailed,
    seconds: float | None = None,
) -> Finished:
    """Run `command` in the folder `cwd` to its end and return what it printed.

    Raises `failure` if it ends with a status other than 0 or not within `seconds`, LlamaCppStopped if
    that was not its own doing, NoSpaceLeft if the disk of the folder `writes_to` was full.
    """
    require_time()
    left = remaining()
    try:
        completed = subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            env=environment(),
            cwd=cwd,
            check=False,
            preexec_fn=ending_with_us(),
            timeout=min(filter(None, (seconds, left)), default=None),
        )
    except subprocess.TimeoutExpired:
        require_time()
        raise failure(f"{Path(command[0]).name} took longer than {seconds or left:g} s") from None
    finished = Finished(
        completed.stdout.decode(errors="replace"), completed.stderr.decode(errors="replace")
    )
    if completed.returncode == 0:
        return finished
    if writes_to:
        require_space_left(finished, writes_to)
    raise failed(Path(command[0]).name, completed.returncode, finished, failure)


def require_space_left(printed: Finished, folder: Path) -> None:
    """Raise NoSpaceLeft if that is what a program says, which writes below `folder`."""
    if FULL.search(printed.stderr + printed.stdout):
        raise no_space_left(folder, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))


def failed(
    program: str, status: int, printed: Finished, failure: type[LlamaCppFailed]
) -> LlamaCppFailed:
    """Return the exception for a program that ended with `status`: `failure`, or LlamaCppStopped if
    that was not its own doing."""
    ending = f"failed with status {status}"
    if status < 0:
        ending = f"was killed by {signal.Signals(-status).name}"
        if status == -signal.SIGKILL:
            ending += " (was memory short?)"
    kind = LlamaCppEnded if -status in FROM_OUTSIDE else blamed(printed.stderr, failure)
    failure_of = kind(f"{program} {ending}: {last_lines(printed)}")
    failure_of.signal = -status if status < 0 else None
    return failure_of


def blamed(output: str, failure: type[LlamaCppFailed]) -> type[LlamaCppFailed]:
    """Return LlamaCppStopped if a program's `output` tells that memory was short, else `failure`."""
    return LlamaCppStopped if MEMORY_SHORT.search(output) else failure


def environment() -> dict[str, str]:
    """Return the environment for a child: what it needs of ours, no secret, and nothing that would
    change a result unseen (llama.cpp reads LLAMA_ARG_CTX_SIZE and its like as its command line)."""
    # Threads that spin while they wait took up to twice as long on cores shared with other work. Behind
    # an assertion that failed, which says why, a backtrace would fill the last lines.
    return {
        **plain(),
        "OMP_WAIT_POLICY": "passive",
        "PYTHONUTF8": "1",
        "GGML_NO_BACKTRACE": "1",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # so that GPUs have the numbers that nvidia-smi knows them by
    }


def last_lines(finished: Finished) -> str:
    """Return the last lines with content of what a program printed, on stderr if it used that."""
    lines = [line.rstrip() for line in (finished.stderr or finished.stdout).splitlines()]
    return "\n".join([line for line in lines if line][-SHOWN_LINES:]) or "it printed nothing"


@contextmanager
def appearing_whole(out: Path) -> Iterator[Path]:
    """Give a path next to `out` to write to: it becomes `out` if the block ends well."""
    with NamedTemporaryFile(dir=out.parent, prefix=f".{out.name}.", delete=False) as file:
        partial = Path(file.name)
    try:
        yield partial
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)


def existing(path: Path, subject: str) -> Path:
    """Return `path`, or raise FileNotFoundError that says what `subject` it should have been."""
    if not path.exists():
        raise FileNotFoundError(errno.ENOENT, f"{subject} does not exist", str(path))
    return path
