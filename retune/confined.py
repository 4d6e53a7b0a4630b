"""Work on what strangers made: in a child that has a limit of memory, one of silence, no secrets.

The parent calls `run_confined`; the child is a script that ends in `confined(Job, function)` and
calls `alive` whenever a part of its work is done. What a person can mend crosses the border as the
exception that it is, and a child that takes too much, hangs or crashes becomes a SourceError.
"""

import errno
import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from retune.child import ChildFailed, Event, emit, main, run_child
from retune.environment import plain
from retune.errors import HubUnreachable
from retune.machine import free_memory
from retune.measures import format_memory
from retune.recipe import Dataset
from retune.sources import SourceError

FLOOR = 1 << 30  # bytes of memory that a child gets in any case; the libraries alone take a third
_FREQUENT = 10.0  # seconds between two resets of the clock

# Arrow's own allocator takes a gigabyte of addresses at once, which would count as memory.
_COUNTED = {"ARROW_DEFAULT_MEMORY_POOL": "system"}


class ConfinedJob(BaseModel):
    """What a confined child is given; `memory` in bytes, `quiet` in seconds."""

    memory: int
    quiet: int


Job = TypeVar("Job", bound=ConfinedJob)
_job: ConfinedJob | None = None  # of this process, if it is confined


def limits(dataset: Dataset) -> dict[str, int]:
    """Return the fields of a ConfinedJob by the recipe's settings and the memory that is free."""
    memory = max(FLOOR, int(dataset.memory_share * free_memory()))
    return {"memory": memory, "quiet": 60 * dataset.quiet_minutes}


def run_confined(
    script: Path,
    job: ConfinedJob,
    log: Path,
    subject: str,
    network: bool = False,
    environment: dict[str, str] | None = None,
) -> Event:
    """Run a confined child and return its result.

    `subject` (`dataset.source: d.jsonl`) begins what is said of a child that was stopped; the child
    may name a file in it by the event `reading`. With `network` it gets the Hub's settings and
    token, and the proxies, else neither; or `environment` is all that it sees. Raises SourceError,
    HubUnreachable (worth a retry) and OSError (a full disk) as the child does, SourceError when it is
    stopped or crashes.
    """
    current = subject

    def note(event: Event) -> None:
        nonlocal current
        if event["event"] == "reading":
            current = f"{subject} ({event['file']})"

    try:
        result = run_child(
            script, job, log, note, env=_COUNTED, environment=environment or plain(hub=network)
        )
    except ChildFailed as failure:
        if failure.signal is None:
            raise
        raise SourceError(_cause_of_death(failure, job, current)) from None
    failed = result.get("failed")
    if failed == "source":
        raise SourceError(result["message"])
    if failed == "outage":
        raise HubUnreachable(result["message"])
    if failed == "space":
        raise OSError(result["errno"], os.strerror(result["errno"]))
    if failed == "crash":
        raise SourceError(_crashed(current, "panic"))
    if failed == "memory":
        raise SourceError(_too_much_memory(job, current))
    return result


def _cause_of_death(failure: ChildFailed, job: ConfinedJob, subject: str) -> str:
    words = str(failure).lower()
    if failure.signal == signal.SIGALRM:
        return (
            f"{subject} gave no further rows for {job.quiet // 60} minutes "
            f"(dataset.quiet_minutes); name another source, or raise the limit"
        )
    if failure.signal == signal.SIGKILL or "alloc" in words or "memory" in words:
        return _too_much_memory(job, subject)
    return _crashed(subject, signal.Signals(failure.signal or 0).name)


def _crashed(subject: str, cause: str) -> str:
    return (
        f"{subject} crashed its reader ({cause}): it is damaged, or made to do so; correct it, or name "
        f"another"
    )


def _too_much_memory(job: ConfinedJob, subject: str) -> str:
    return (
        f"{subject} takes more than {format_memory(job.memory)} of memory to read, the limit by "
        f"dataset.memory_share; name another source, read it in smaller row groups or rows, or raise "
        f"the limit"
    )


def confined(job_type: type[Job], function: Callable[[Job], Event]) -> None:
    """In a child: do the job named on the command line within its limits, and report."""

    def work(job: Job) -> Event:
        with suppress(ValueError):  # where the system sets a lower limit
            # Not RLIMIT_AS: files that are only mapped, and addresses only reserved, are no memory.
            resource.setrlimit(resource.RLIMIT_DATA, (job.memory, job.memory))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        global _job
        _job = job
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, whatever it hangs in
        alive()
        try:
            return function(job)
        except BaseException as error:
            if event := _failure(error):
                return event
            raise

    main(job_type, work)


def alive() -> None:
    """Say that the work continues: in a confined child the limit of silence starts again."""
    if _job:
        remaining, _ = signal.getitimer(signal.ITIMER_REAL)
        if remaining < max(_job.quiet - _FREQUENT, _job.quiet / 2):
            signal.setitimer(signal.ITIMER_REAL, _job.quiet)


def reading(file: Path) -> None:
    """Name the file that is read now: a confined child's last one is told if it is stopped."""
    alive()
    if _job:
        emit("reading", file=file.name)


def require_memory(count: int) -> None:
    """Raise MemoryError if a confined child cannot have `count` bytes: not every library does."""
    if _job and count > _job.memory:
        raise MemoryError(f"{count:,} bytes")


def out_of_memory(error: BaseException) -> bool:
    """Say whether an exception, or what caused it, tells that memory ran out."""
    return any(
        isinstance(cause, MemoryError)
        or (isinstance(cause, OSError) and cause.errno == errno.ENOMEM)
        or "out of memory" in str(cause)
        or "can't start new thread" in str(cause)
        for cause in causes(error)
    )


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Return an exception and those behind it."""
    while error:
        yield error
        error = error.__cause__ or error.__context__


def _failure(error: BaseException) -> Event | None:
    """Return the event that represents an exception in the parent; None for a bug's."""
    if out_of_memory(error):
        return {"failed": "memory"}
    if isinstance(error, SourceError):
        return {"failed": "source", "message": str(error)}
    if isinstance(error, ConnectionError | TimeoutError):
        return {"failed": "outage", "message": str(error)}
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return {"failed": "space", "errno": error.errno}
    if type(error).__name__ == "PanicException":  # of libraries in Rust, and no Exception
        return {"failed": "crash"}
    return None
