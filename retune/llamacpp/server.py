"""llama.cpp's server, for the length of a block and for this process alone."""

import math
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Timer
from typing import TYPE_CHECKING, Any

from tenacity import Retrying, retry_if_not_result, wait_fixed

from retune.llamacpp.installation import locate
from retune.llamacpp.process import Finished, LlamaCppFailed, blamed, environment, failed
from retune.parent import ending_with_us
from retune.temporary import short_parent, temporary_folder

if TYPE_CHECKING:
    import httpx

PROGRAM = "llama-server"
SOCKET = "llama.sock"  # llama.cpp takes a name that ends so for a Unix socket, not for a host
READY_SECONDS = 0.02  # between two times that the server is asked if the model is loaded
ENDING_SECONDS = 10


class Server:
    """A llama-server that runs: `process` answers to `client`, and prints to the file `log`.

    What fails is raised as `failure`, or as LlamaCppStopped if it was not llama.cpp's own doing.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        client: "httpx.Client",
        log: Path,
        failure: type[LlamaCppFailed],
        seconds: float | None,
    ) -> None:
        self._process, self._client, self._log = process, client, log
        self._failure, self._seconds = failure, seconds
        self._deadline = time.monotonic() + (seconds or math.inf)

    def wait_until_loaded(self) -> None:
        """Return once the model is loaded; raises if the server ends before."""
        Retrying(retry=retry_if_not_result(bool), wait=wait_fixed(READY_SECONDS))(self._is_loaded)

    def _is_loaded(self) -> bool:
        import httpx

        try:
            return self._client.get("/health").is_success
        except httpx.TransportError:  # it does not listen yet, or no longer
            if self._process.poll() is not None:
                raise self._reason() from None
            return False

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Return the server's reply to `body`; raises if it refuses, or ends meanwhile."""
        import httpx

        try:
            reply = self._client.post(path, json=body)
        except httpx.TransportError:
            self._process.wait(ENDING_SECONDS)  # it hangs up only if it ends
            raise self._reason() from None
        if reply.is_error:
            failure = blamed(reply.text, self._failure)
            raise failure(f"llama.cpp refused a conversation: {reply.text}")
        return reply.json()

    def _reason(self) -> LlamaCppFailed:
        """Return the exception that says why the server has ended."""
        if time.monotonic() >= self._deadline:
            return self._failure(f"{PROGRAM} took longer than {self._seconds:g} s")
        printed = Finished("", self._log.read_text(errors="replace"))
        return failed(PROGRAM, self._process.returncode, printed, self._failure)


@contextmanager
def serving(
    options: Sequence[str | Path],
    failure: type[LlamaCppFailed],
    seconds: float | None = None,
    memory: int | None = None,
    program: Sequence[str | Path] = (),
) -> Iterator[Server]:
    """Start llama-server, or `program` in its place, with `options`, give it once it has loaded its
    model, end it with the block.

    It also ends with this process, even by `kill -9`, and after `seconds`; it gets `memory` bytes at
    most. Only its user can reach the socket that it listens on. Raises `failure` with llama.cpp's own
    reason, or LlamaCppStopped.
    """
    command = [*(program or [locate().program(PROGRAM)]), *options]
    with temporary_folder(short_parent()) as folder:
        socket, log = folder / SOCKET, folder / "log"
        with client_of(socket) as client, log.open("wb") as output:
            process = subprocess.Popen(
                [*limited_to(memory), *command, "--host", socket],
                stdin=subprocess.PIPE,  # never written to: its end tells the server that we are gone
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment(),
                preexec_fn=ending_with_us(),
            )
            timer = Timer(seconds or 0, process.kill)
            try:
                server = Server(process, client, log, failure, seconds)
                if seconds:
                    timer.start()
                server.wait_until_loaded()
                yield server
            finally:
                timer.cancel()
                process.kill()
                process.communicate()


def client_of(socket: Path) -> "httpx.Client":
    """Return a client of the server that listens, or will listen, on `socket`."""
    import httpx

    # A connection for each request: one that the server closes while it idles is no failure.
    once = httpx.Limits(max_keepalive_connections=0)
    way = httpx.HTTPTransport(uds=str(socket), limits=once, trust_env=False)
    return httpx.Client(transport=way, base_url="http://llama.cpp", timeout=None)


def limited_to(memory: int | None) -> list[str]:
    """Return what is put before a command so that it gets `memory` bytes at most."""
    if memory is None:
        return []
    # Not of the address space, of which threads take much more than they use. Where the system sets a
    # lower limit, that one stays.
    return ["sh", "-c", 'ulimit -d "$0" 2>/dev/null; exec "$@"', str(memory // 1024)]
