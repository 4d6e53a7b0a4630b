"""Services that are started again when they die, a limited number of times."""

import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from typing import Any

from flows.servers import ServerError, logs, server

RESTARTS, WINDOW = 5, 600  # starts again within so many seconds, beyond which something is wrong
PAUSE = 2  # seconds before the second start again in a row, twice as many before the next


class Service:
    """A program that is to be there; `ready` waits until it is, and raises ServerError if not."""

    def __init__(
        self,
        name: str,
        command: tuple[str, ...],
        env: Mapping[str, str],
        ready: Callable[["subprocess.Popen[bytes]"], None],
        whole: bool,
    ) -> None:
        self.name, self._command, self._env, self._ready = name, command, env, ready
        self._whole = whole
        self._stack = ExitStack()
        self._restarts: deque[float] = deque(maxlen=RESTARTS)

    def start(self) -> None:
        self.process = self._stack.enter_context(server(self.name, *self._command, env=self._env))

    def wait_until_ready(self) -> None:
        self._ready(self.process)

    def end(self) -> None:
        self._stack.close()
        if self._whole:
            with suppress(ProcessLookupError):  # what it started itself may still hold its port
                os.killpg(self.process.pid, signal.SIGKILL)

    def start_again(self) -> str:
        """Start a program that has ended once more, and say so. Raises ServerError if that is often."""
        now = time.monotonic()
        recent = [moment for moment in self._restarts if now - moment < WINDOW]
        if len(recent) >= RESTARTS:
            raise ServerError(
                f"{self.name} ended {RESTARTS + 1} times within {WINDOW // 60} minutes; its log is "
                f"{logs() / self.name}.log"
            )
        self._restarts.append(now)
        code = self.process.returncode
        self.end()
        time.sleep(PAUSE * 2 ** (len(recent) - 1) if recent else 0)
        self.start()
        try:
            self.wait_until_ready()
        except ServerError as error:  # it has ended, or is ended: the next look starts it again
            self.process.kill()
            return f"{self.name} had ended ({_ending(code)}) and does not come up: {error}"
        return f"{self.name} had ended ({_ending(code)}) and was started again"


class Supervisor:
    """Starts services in an order, sees that they are there, and ends them the other way round."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._services: dict[str, Service] = {}
        self._tell = tell

    def start(
        self,
        name: str,
        *command: str,
        env: Mapping[str, str] | None = None,
        ready: Callable[["subprocess.Popen[bytes]"], Any] = lambda process: None,
        whole: bool = True,
    ) -> "subprocess.Popen[bytes]":
        """Start a service; whoever starts it waits for `ready` the first time. `whole`: what it has
        started is of no use without it, and ended before it is started again."""
        service = Service(name, command, env or {}, ready, whole)
        service.start()
        self._services[name] = service
        return service.process

    @property
    def processes(self) -> "dict[str, subprocess.Popen[bytes]]":
        """The process of each service, by name."""
        return {name: service.process for name, service in self._services.items()}

    def wait_until_ready(self, name: str) -> None:
        self._services[name].wait_until_ready()

    def look(self) -> bool:
        """Start again what has ended; tell whether there was anything. Raises ServerError."""
        ended = [one for one in self._services.values() if one.process.poll() is not None]
        for service in ended:
            self._tell(service.start_again())
        return bool(ended)

    def end(self) -> None:
        for service in reversed(self._services.values()):
            service.end()


def _ending(code: int | None) -> str:
    return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
