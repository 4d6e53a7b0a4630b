"""Commands that `retune ui` and `retune operate` run by a cron schedule, beside the runs of recipes.

Each is a process of its own: what it finds wrong ends nothing else. It takes no slot of the worker, so
that changes are looked for while a training works, too. A time that is missed is not made up for.
"""

import re
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from flows.servers import ServerError, logs, open_log
from retune.errors import RetuneError
from retune.escaping import terminal


class BadCron(RetuneError):
    """A schedule that cannot be read."""


class Chore(NamedTuple):
    """A command of retune, when it is due (cron, in this machine's time zone), by which option."""

    command: tuple[str, ...]
    cron: str
    option: str

    @property
    def name(self) -> str:
        return self.command[0]

    def next(self, after: datetime) -> datetime:
        """Return when it is due next. Raises BadCron."""
        # It comes with Prefect, which reads its schedules by it.
        from cronsim import CronSim, CronSimError

        try:
            return next(CronSim(self.cron, after))
        except (CronSimError, StopIteration) as error:
            raise BadCron(
                f"{self.option}: {self.cron!r:.80} is no cron schedule ({error}); five fields, e.g. "
                f"'*/10 * * * *'"
            ) from None


def chores(watch_cron: str | None, gc_cron: str | None, gc_delete: bool) -> list[Chore]:
    """Return what was asked for on the command line. Raises BadCron."""
    if gc_delete and not gc_cron:
        raise BadCron("--gc-delete needs --gc-cron: when, e.g. '0 4 * * *'")
    wanted = []
    if watch_cron:
        wanted.append(Chore(("watch",), watch_cron, "--watch-cron"))
    if gc_cron:
        wanted.append(Chore(("gc", *(["--delete"] if gc_delete else [])), gc_cron, "--gc-cron"))
    for chore in wanted:
        chore.next(datetime.now().astimezone())
    return wanted


class Chores:
    """Looks once in a while what is due; each look returns sentences on what became of it."""

    def __init__(self, wanted: Sequence[Chore], now: datetime) -> None:
        self._due = {chore: chore.next(now) for chore in wanted}
        self._running: dict[Chore, subprocess.Popen[bytes]] = {}

    def look(self, now: datetime) -> list[str]:
        """Start what is due and does not run still."""
        told = [
            self._end(chore) for chore, one in [*self._running.items()] if one.poll() is not None
        ]
        for chore, due in self._due.items():
            self._due[chore] = chore.next(now)  # of a clock that was set back, before `due`
            if now >= due and chore not in self._running:
                self._running[chore] = _start(chore)
        return told

    def end(self) -> None:
        """End what runs; `gc` and `watch` can be ended at any time."""
        for process in self._running.values():
            process.terminate()
            process.wait()
        self._running.clear()

    def _end(self, chore: Chore) -> str:
        process = self._running.pop(chore)
        command = f"`retune {' '.join(chore.command)}`"
        last = _last_line(chore)
        if process.returncode:
            return f"{command} failed (exit code {process.returncode}): {last}"
        return f"{command}: {last}"


def _start(chore: Chore) -> "subprocess.Popen[bytes]":
    with open_log(chore.name) as log:
        try:
            return subprocess.Popen(
                [sys.executable, "-m", "flows.cli", *chore.command],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        except OSError as error:
            raise ServerError(f"`retune {chore.name}` cannot be started: {error}") from error


def _last_line(chore: Chore) -> str:
    text = (logs() / f"{chore.name}.log").read_text(encoding="utf-8", errors="replace")
    lines = (line for line in reversed(text.splitlines()) if re.search(r"\w", line))  # no frame
    return terminal(next(lines, "it said nothing"))[:500]
