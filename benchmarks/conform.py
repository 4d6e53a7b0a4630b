"""What an examination of a base by conform takes: seconds and CPU seconds, of all and of each process.

    python -m benchmarks.conform FOLDER [--cold] [--turns 3]    # of a base; no weights are needed

The fork server has imported the libraries before, unless `--cold`: then its start is counted, as of a
run whose first stage this is. To compare with another revision, run this file by its path with that
one's root as PYTHONPATH, in turn with this one.
"""

import argparse
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from retune import child, forkserver
from retune.recipe import Model
from tasks.conform.examination import examine

INTERVAL = 0.1  # seconds between two looks at the processes
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Part:
    """A process: when it was first and last seen, and its CPU seconds, without its children's."""

    name: str
    begun: float
    ended: float
    cpu: float


class Watch(threading.Thread):
    """Looks at this process and all that come of it until `done` is set."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.parts: dict[int, Part] = {}
        # Of forked children, which all are named after the server.
        self.scripts: dict[int, str] = {}
        self.done = threading.Event()
        self._origin = time.monotonic()
        self._before = {pid: cpu for pid, (_, cpu) in _processes().items()}

    def run(self) -> None:
        while not self.done.wait(INTERVAL):
            self.look()

    def look(self) -> None:
        now, processes = time.monotonic() - self._origin, _processes()
        ours = {os.getpid()}
        for pid, (parent, cpu) in sorted(processes.items()):  # a parent's number may be the larger
            if pid in ours or parent in ours or parent in self.parts:
                ours.add(pid)
                spent = cpu - self._before.get(pid, 0.0)
                spent -= time.thread_time() if pid == os.getpid() else 0.0  # of this looking
                part = self.parts.setdefault(pid, Part("", now, now, 0.0))
                part.ended, part.cpu = now, max(part.cpu, spent)
                part.name = self.scripts.get(pid) or _name(pid) or part.name


def _processes() -> dict[int, tuple[int, float]]:
    """Return parent and CPU seconds of every process."""
    return {
        process.pid: (process.info["ppid"], sum(process.info["cpu_times"][:2]))
        for process in psutil.process_iter(["ppid", "cpu_times"])
        if process.info["cpu_times"]  # it has not ended
    }


def _name(pid: int) -> str:
    try:
        words = psutil.Process(pid).cmdline()
    except psutil.Error:
        return ""
    script = next((Path(word) for word in words if word.endswith(".py")), None)
    if "retune.forkserver" in words:
        return "fork server"
    return f"{script.parent.name}/{script.name}" if script else Path(words[0] if words else "").name


@contextmanager
def watching() -> Iterator[Watch]:
    """Watch what this process starts, for the length of a block."""
    watch, begin = Watch(), child._new_process

    def begun(script: Path, *rest):
        process, reading = begin(script, *rest)
        watch.scripts[process.pid] = f"{script.parent.name}/{script.name}"
        return process, reading

    child._new_process = begun
    watch.start()
    try:
        yield watch
    finally:
        watch.done.set()
        watch.join()
        child._new_process = begin


def warm() -> None:
    """Have a fork server that has imported its libraries."""
    server = forkserver.server(child._variables(hub=False, variables=None))
    with server._lock:
        server._await_ready()


def turn(base: str) -> None:
    """Examine a base once, and print what that took."""
    with TemporaryDirectory(prefix="retune-benchmark-") as folder, watching() as watch:
        begun = time.monotonic()
        report = examine(Model(base=base), None, Path(folder, "tiny.gguf"), "all", Path(folder))
        seconds = time.monotonic() - begun
    parts = [part for part in watch.parts.values() if part.cpu >= 1 / TICKS]
    print(
        f"\n{base}: {sum(check.passed for check in report.checks)} of {len(report.checks)} passed"
    )
    print("| process | begins, s | ends, s | CPU s |\n|---|---:|---:|---:|")
    for part in sorted(parts, key=lambda part: part.begun):
        print(f"| `{part.name}` | {part.begun:.1f} | {part.ended:.1f} | {part.cpu:.1f} |")
    print(f"| all | 0.0 | {seconds:.1f} | {sum(part.cpu for part in parts):.1f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base")
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--turns", type=int, default=1)
    options = parser.parse_args()
    if not options.cold:
        warm()
    for _ in range(options.turns):
        turn(options.base)


if __name__ == "__main__":
    main()
