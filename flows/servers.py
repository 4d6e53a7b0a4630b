"""Servers that we start: each in a session of its own, with a log in the home folder.

Prefect's API runs commands as the user, so no sign-in is sent before it is certain that the server
which answers is the process that was started here.
"""

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

import psutil
from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

from retune.access import sign_in, status
from retune.errors import RetuneError
from retune.escaping import terminal
from retune.home import home
from retune.processes import listens

START = 180  # seconds that a server has to come up, on a loaded machine
GRACE = 15  # seconds that a server has to end by itself
LARGEST_LOG = 1 << 20  # bytes, at the start of a server
LAST_LINES = 5  # of a server's log, told of one that did not come up


class ServerError(RetuneError):
    """A server that cannot be started, or is not ours."""


def logs() -> Path:
    """Return the folder of the servers' logs."""
    return home() / "logs"


def open_log(name: str) -> BinaryIO:
    """Return the log of a program, to be appended to; one that is too large begins anew."""
    logs().mkdir(exist_ok=True)
    # Appending: two runs may have servers of one name, and neither is to write over the other.
    log = (logs() / f"{name}.log").open("ab")
    if log.tell() > LARGEST_LOG:
        log.truncate(0)
    return log


@contextmanager
def server(
    name: str,
    *command: str,
    env: Mapping[str, str] = MappingProxyType({}),
    stdin: int | None = None,
    pass_fds: tuple[int, ...] = (),
) -> Iterator["subprocess.Popen[bytes]"]:
    """Start a server, whose log is `name`'s, and end it with this block; `env` is added to ours."""
    with open_log(name) as log:
        process = subprocess.Popen(
            command,
            stdin=stdin,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | env,
            pass_fds=pass_fds,
            # Ctrl-C reaches whatever is in the terminal's foreground, all at once; this way the
            # order stays ours.
            start_new_session=True,
        )
        try:
            yield process
        finally:
            with suppress(psutil.NoSuchProcess):
                end(psutil.Process(process.pid))
            process.wait()


def end(process: psutil.Process) -> bool:
    """End a process that leads its group, politely first; an interrupt does not wait.

    Returns whether there was one.
    """
    with suppress(psutil.NoSuchProcess):
        process.terminate()
    try:
        process.wait(GRACE)
    except (psutil.TimeoutExpired, SystemExit, KeyboardInterrupt) as error:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        return not isinstance(error, psutil.TimeoutExpired)
    return False


def require_ours(
    name: str,
    process: "subprocess.Popen[bytes]",
    port: int,
    health: str,
    private: str = "",
    interval: float = 1,
) -> None:
    """Wait until `process` listens on the port and answers; `private` is what only we may read.

    It is asked every `interval` seconds. Raises ServerError if it ends, takes too long, or does not
    keep others out.
    """
    address, started = f"http://127.0.0.1:{port}", psutil.Process(process.pid)

    def is_up() -> bool | None:
        """Tell whether it answers; None if it has ended."""
        if process.poll() is not None:
            return None
        # Who listens is asked first: the sign-in goes to no other process.
        return listens(started, port) and status(address + health) == 200

    retrying = Retrying(
        retry=retry_if_result(lambda up: up is False),
        stop=stop_after_delay(START),
        wait=wait_fixed(interval),
        retry_error_callback=lambda _: None,
    )
    if not retrying(is_up):
        log = logs() / f"{name}.log"
        last = log.read_text(errors="replace").splitlines()[-LAST_LINES:]
        raise ServerError(
            f"{name} did not come up at {address} (or another process took the port meanwhile); "
            f"its log, {log}, ends:\n{terminal(chr(10).join(last))}"
        )
    if private:
        statuses = tuple(
            status(address + private, credentials, patience=60) for credentials in (None, sign_in())
        )
        if statuses != (401, 200):
            raise ServerError(
                f"{name} at {address} answers HTTP {statuses[0]} without and {statuses[1]} with this "
                f"home's sign-in, where 401 and 200 are right: look for other settings of it (PREFECT_* "
                f"and MLFLOW_* variables, .env, prefect.toml)"
            )
