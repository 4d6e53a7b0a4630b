"""The Prefect server of one run, where neither `retune ui` nor a server of the user's is there.

Prefect would start one by itself, at its first request: it first imports the whole server into the
run's process, and then waits. This one comes up while the run imports its libraries.
"""

import atexit
import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from typing import NamedTuple

from flows import local
from flows.servers import require_ours, server
from retune.environment import python_path

NAME = "temporary-server"
INTERVAL = 0.1  # seconds; a run waits for it
SETTINGS = {
    "PREFECT_SERVER_UI_ENABLED": "false",
    # As Prefect starts its own temporary one: without what needs a server that stays, and without
    # what a middleware could add to a router later.
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
    # A run makes no blocks. `retune ui` registers their types, for which it must not be noted that
    # this was done.
    "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "false",
    "PREFECT_SERVER_MEMOIZE_BLOCK_AUTO_REGISTRATION": "false",
}


class TemporaryServer(NamedTuple):
    """A server that was started and may not answer yet."""

    process: "subprocess.Popen[bytes]"
    port: int

    def use(self) -> None:
        """Wait until it answers, and let Prefect use it from here on. Raises ServerError."""
        require_ours(
            NAME, self.process, self.port, "/api/health", "/api/admin/version", interval=INTERVAL
        )
        os.environ |= {
            "PREFECT_API_URL": f"http://127.0.0.1:{self.port}/api",
            "PREFECT_UI_URL": "",  # it has no pages: no run can be looked at there
        }
        local.reread()


def start() -> TemporaryServer:
    """Start a server on the home's database, after `local.configure()`; it ends with this process.

    However that ends. Where Python ends in order, Prefect first sends what it has of logs and
    events: it does so before `atexit`.
    """
    stack = ExitStack()
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port, descriptor = listening.getsockname()[1], listening.fileno()
        process = stack.enter_context(
            server(
                NAME,
                *(sys.executable, "-P", "-m", "flows.prefect_app", str(descriptor)),
                env=SETTINGS | {"PYTHONPATH": python_path()},
                stdin=subprocess.PIPE,  # never written to: its end tells that we are gone
                pass_fds=(descriptor,),
            )
        )
    atexit.register(stack.close)
    return TemporaryServer(process, port)
