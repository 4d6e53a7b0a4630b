"""Work in a child process: its memory returns when it ends, and a crash is one failed task.

The parent calls `run_child`; the child is a script that ends in `main(Job, function)` and calls
`emit` on its way. Events are JSON lines over a pipe of their own, so whatever libraries print
goes to the log file and nowhere else.
"""

import gc
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, TypeAlias, TypeVar

from pydantic import BaseModel

from retune import forkserver
from retune.disk_space import is_disk_full, no_space_left
from retune.environment import python_path, without_secrets
from retune.errors import HubUnreachable, ProgramFailed, RetuneError
from retune.escaping import terminal
from retune.home import home
from retune.time_limit import require_time

EVENTS = "RETUNE_EVENTS_FD"
ALONE = "RETUNE_GRACE"  # seconds that a child has once its parent is gone; none: it ends at once
LATER = "-"  # in the place of a job's file: it is named on stdin
# A vocabulary, read as JSON, is half a million objects that stay: to look through all of them now and
# then takes a third of the time.
COLLECTED = (50_000, 20, 50)  # as `gc.set_threshold` takes it
FRAMES = 8  # of a traceback that a failed run tells; its log has all
GRACE = 10  # seconds between asking a child to end and killing it
QUIET = {
    "PYTHONUNBUFFERED": "1",
    "TQDM_DISABLE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "UNSLOTH_DISABLE_STATISTICS": "1",
}
# OpenMP's threads wait for each other by spinning. On a CPU that is shared with anything else this
# made training 100 times slower than letting them sleep (80 tokens/s instead of 6,700).
PATIENT = {"OMP_WAIT_POLICY": "PASSIVE"}

Event = dict[str, Any]
Process: TypeAlias = subprocess.Popen[bytes] | forkserver.ForkedProcess
Job = TypeVar("Job", bound=BaseModel)


class ChildFailed(ProgramFailed):
    """The child process crashed or was killed; the message names its stage, how it ended, with the
    traceback if there is one, and its log."""


class ChildRefused(RetuneError):
    """The child said what is wrong with its inputs; its message is all there is to know."""


class PreparedChild:
    """A child that is there before its job, and imports its libraries meanwhile."""

    def __init__(self, script: Path, env: dict[str, str], hub: bool) -> None:
        self.settings = env, hub
        self.events, writing = os.pipe()
        with Path(os.devnull).open("wb") as nowhere:
            variables = _variables(hub, None) | env
            self.process = _started([str(script), LATER], variables, nowhere, writing)
        os.close(writing)

    def begin(self, job_file: Path, log: Path, alone: str) -> bool:
        """Give it its job, the file for what it prints and the seconds that it has without us; tell
        whether it is still there."""
        assert self.process.stdin
        log.touch()  # the child opens it once it has read this, if it comes to that
        line = f"{json.dumps([str(job_file), str(log), alone])}\n".encode()
        try:
            # Not by the buffered file: what it could not write it would try to when it is closed.
            os.write(self.process.stdin.fileno(), line)
        except BrokenPipeError:
            return False
        return self.process.poll() is None

    def end(self) -> None:
        _end(self.process, GRACE)
        os.close(self.events)


_prepared: dict[Path, PreparedChild] = {}  # by their scripts


def prepare_child(script: Path, env: dict[str, str] | None = None, hub: bool = False) -> None:
    """Start the child for a job that `run_child` will have for `script`, with the same `env` and `hub`.

    It imports what its `main` has been told to. Until then it ends with this process, once that is done.
    """
    dismiss_child(script)
    _prepared[script] = PreparedChild(script, env or {}, hub)


def dismiss_child(script: Path) -> None:
    """End the child that was prepared for `script`, if there is one without a job."""
    if waiting := _prepared.pop(script, None):
        waiting.end()


def _begun(
    script: Path,
    env: dict[str, str] | None,
    hub: bool,
    environment: dict[str, str] | None,
    job_file: Path,
    log: Path,
    alone: str,
) -> PreparedChild | None:
    """Return the child that was prepared for this, at its job; None if there is none that can do it."""
    waiting = _prepared.pop(script, None)
    fits = waiting and environment is None and waiting.settings == (env or {}, hub)
    if waiting and fits and waiting.begin(job_file, log, alone):
        return waiting
    if waiting:
        waiting.end()
    return None


def run_child(
    script: Path,
    job: BaseModel,
    log: Path,
    on_event: Callable[[Event], None] = lambda event: None,
    env: dict[str, str] | None = None,
    grace: float = GRACE,
    hub: bool = False,
    environment: dict[str, str] | None = None,
    forked: bool = False,
) -> Event:
    """Run `script` on `job` and return its `result` event; call `on_event` with every other one.

    The job is written next to `log`, which gets all the child prints (appended). The child and what
    it started end with this call, however that ends, and with this process, even by `kill -9`;
    a child that is told to end has `grace` seconds to do so by itself, also without us if that is more
    than GRACE: what it then writes is kept. It sees no secret of our environment; `hub` says that it
    downloads from the Hub, with the Hub's token. `environment` is all that it sees, if given; `env` is
    added in either case. A `forked` child finds the libraries of models imported, offline and without a
    token; but for the Hub's variables, `env` and `environment` must hold nothing then that they read at
    that time.
    Raises ChildRefused for a RetuneError in the child, StageTimeout when the stage's time is over,
    ChildFailed for anything else.
    """
    alone = f"{grace:g}" if grace > GRACE else ""
    job_file = log.with_suffix(".job.json")
    job_file.write_text(job.model_dump_json(indent=1))
    if prepared := _begun(script, env, hub, environment, job_file, log, alone):
        process: Process = prepared.process
        reading = prepared.events
    else:
        env = (env or {}) | {ALONE: alone}
        process, reading = _new_process(script, job_file, log, env, hub, environment, forked)
    final: Event = {}
    try:
        for event in _events(reading, process):
            if event["event"] in ("result", "error"):
                final = event
            else:
                on_event(event)
        code = process.wait()
    finally:
        _end(process, grace)
        os.close(reading)  # not before: an event into a closed pipe is an error in the child
    return _outcome(final, code, script, log)


def _new_process(
    script: Path,
    job_file: Path,
    log: Path,
    env: dict[str, str],
    hub: bool,
    environment: dict[str, str] | None,
    forked: bool,
) -> tuple[Process, int]:
    """Return the child that does a job, and where its events are read."""
    reading, writing = os.pipe()
    variables = _variables(hub, environment) | env
    with log.open("ab") as output:
        command = [str(script), str(job_file)]
        process = None
        # Elsewhere a fork without exec is not safe once such libraries are loaded.
        if forked and sys.platform == "linux":
            process = _forked(command, variables, output.fileno(), writing)
            if process is None:
                output.write(b"No fork server works here: the libraries are imported anew.\n")
                output.flush()
        if process is None:
            process = _started(command, variables, output, writing)
    os.close(writing)
    return process, reading


def _variables(hub: bool, variables: dict[str, str] | None) -> dict[str, str]:
    seen = without_secrets(hub) if variables is None else variables
    return PATIENT | seen | QUIET | {"PYTHONPATH": python_path()}


def _started(
    command: list[str], variables: dict[str, str], output: IO[bytes], events: int
) -> Process:
    return subprocess.Popen(
        # -P: a script's own folder must not shadow installed libraries.
        [sys.executable, "-P", *command],
        stdin=subprocess.PIPE,  # its end tells the child that we are gone
        stdout=output,
        stderr=subprocess.STDOUT,
        env=variables | {EVENTS: str(events)},
        pass_fds=(events,),
        start_new_session=True,  # its group can be ended whole
    )


def _forked(
    command: list[str], variables: dict[str, str], output: int, events: int
) -> Process | None:
    """Return a child of the fork server; None where there is none, and a child imports for itself."""
    for _ in range(2):  # a server that was killed has a successor
        with suppress(forkserver.ForkServerFailed):
            server = forkserver.server(_variables(hub=False, variables=None))
            return server.fork(command, variables, output, (EVENTS, events))
    return None


def _events(reading: int, process: Process) -> Iterator[Event]:
    """Yield the child's events until it closes the pipe or ends."""
    pending = b""
    while True:
        # Waking now and then lets a cancellation reach this thread, and sees the end of a child
        # whose own children still hold the pipe.
        require_time()
        ready, _, _ = select.select([reading], [], [], 0.5)
        if not ready:
            if process.poll() is not None:
                return
            continue
        received = os.read(reading, 1 << 16)
        if not received:
            return
        *lines, pending = (pending + received).split(b"\n")
        yield from (json.loads(line) for line in lines)


def _end(process: Process, grace: float) -> None:
    """End the child's process group: politely first, then by force."""
    for kill_signal in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            break
        with suppress(ProcessLookupError):  # the fork server reaps its own
            os.killpg(process.pid, kill_signal)
        try:
            process.wait(grace)
        except subprocess.TimeoutExpired:
            continue
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # whatever the child itself left running
    if process.stdin:
        process.stdin.close()


def _outcome(final: Event, code: int, script: Path, log: Path) -> Event:
    if final.get("event") == "result" and code == 0:
        return final
    if final.get("event") == "error" and final["refused"]:
        refusal = HubUnreachable if final.get("unreachable") else ChildRefused
        raise refusal(terminal(final["message"]))
    if final.get("event") == "error":
        happened = f"{terminal(final['message'])}\n{terminal(final['traceback']).rstrip()}"
        failure = ChildFailed(f"{_stage(script)} failed: {happened}\nThe full log is {log}")
    else:
        happened = f"{_cause_of_death(code)}; the log is {log} and ends with:\n{_tail(log)}"
        failure = ChildFailed(f"{_stage(script)} failed: {happened}")
    failure.signal = -code if code < 0 else None
    raise failure


def _stage(script: Path) -> str:
    """Return the room that a child's script lies in: the stage, for those of stages."""
    return script.parent.name


def _cause_of_death(code: int) -> str:
    if code >= 0:
        return f"the child process ended with exit code {code} and said nothing"
    name = signal.Signals(-code).name
    hint = (
        " (the system does this when memory runs out: use a smaller batch_size or a larger machine)"
        if -code == signal.SIGKILL
        else ""
    )
    return f"the child process was killed by signal {-code}, {name}{hint}"


def _tail(log: Path, lines: int = 8) -> str:
    return terminal("\n".join(log.read_text(errors="replace").splitlines()[-lines:]))


def emit(event: str, **fields: Any) -> None:
    """In a child: send one event to the parent (or print it, when run by hand).

    Without a parent nobody hears it: what is left to do is to end in order.
    """
    line = (json.dumps({"event": event} | fields) + "\n").encode()
    fd = int(os.environ.get(EVENTS, 1))
    with suppress(BrokenPipeError):
        while line:
            line = line[os.write(fd, line) :]


def main(
    job_type: type[Job],
    function: Callable[[Job], Event],
    ahead: Callable[[], None] = lambda: None,
) -> None:
    """In a child: read the job named on the command line, do it, and report result or error.

    A child that was prepared does `ahead` until it has a job. A RetuneError is a refusal, its message
    meant for people, and HubUnreachable stays what it is; anything else is a crash, told by its
    traceback, of which the log has all.
    """
    gc.set_threshold(*COLLECTED)
    if sys.argv[1] == LATER:
        failure = ""
        try:
            ahead()
        except Exception:  # the job will meet it, too
            failure = traceback.format_exc()
        sys.argv[1] = _job_file()
        print(end=failure)
    if EVENTS in os.environ:
        os.set_inheritable(int(os.environ[EVENTS]), False)
        threading.Thread(target=_end_with_parent, args=[_lifeline()], daemon=True).start()
    try:
        job = job_type.model_validate_json(Path(sys.argv[1]).read_text())
        emit("result", **function(job))
    except Exception as error:
        with suppress(OSError):  # the log's disk is full
            traceback.print_exc()
        if is_disk_full(error) and not isinstance(error, RetuneError):
            # The job may lie in a temporary folder, on another disk than what it makes.
            folders = Path(sys.argv[1]).parent, home() / "work"
            fullest = min(folders, key=lambda folder: shutil.disk_usage(folder.parent).free)
            error = no_space_left(fullest, error)
        refused = isinstance(error, RetuneError)
        message = str(error) if refused else traceback.format_exception_only(error)[-1].strip()
        unreachable = isinstance(
            error, HubUnreachable
        )  # worth a retry, which other refusals are not
        emit(
            "error",
            message=message,
            refused=refused,
            unreachable=unreachable,
            traceback=_traceback(error),
        )
        raise SystemExit(1) from None


def _job_file() -> str:
    """Wait for a job, and return its file; from then on all that is printed goes to its log."""
    line = b""
    while not line.endswith(b"\n"):  # unbuffered: what follows is not ours to read
        received = os.read(0, 1)
        if not received:  # the parent is gone, or has no job
            raise SystemExit
        line += received
    job_file, log, os.environ[ALONE] = json.loads(line)
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    for standard in (1, 2):
        os.dup2(output, standard)
    os.close(output)
    return job_file


def _traceback(error: Exception) -> str:
    """Return the innermost frames of an exception, as Python writes them."""
    return "".join(traceback.format_tb(error.__traceback__)[-FRAMES:])


def _lifeline() -> int:
    """Return the parent's end of stdin, and leave an empty stdin: no library may wait for an answer."""
    lifeline = os.dup(0)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    return lifeline


def _end_with_parent(lifeline: int) -> None:
    os.read(lifeline, 1)  # returns when the parent's end of the pipe closes: it is gone
    if alone := os.environ.get(ALONE):
        os.killpg(0, signal.SIGTERM)  # as it would have: a training writes its checkpoint
        time.sleep(float(alone))
    os.killpg(0, signal.SIGKILL)
