"""A process that has imported the libraries of models, and forks children that find them there.

torch, transformers and PEFT take 10 to 15 s of a core to import, in each of a run's children anew.
multiprocessing's fork server does the same for functions of one program; here a child is a script
with an environment, a log and a process group of its own, which sees no secret of this process.

As a program (`python -m retune.forkserver FD`) this module is the server; it speaks with its starter
over the socket FD. Nothing of this project is imported in it, so that children run today's code.
"""

import atexit
import gc
import importlib
import json
import math
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, NoReturn

LIBRARIES = (
    "torch",
    "transformers.modeling_utils",
    "transformers.models.auto.modeling_auto",
    "datasets",
    *("pydantic.main", "pydantic.types", "pydantic.functional_validators"),  # jobs are its models
)
# bitsandbytes, which PEFT imports, asks for each GPU's properties: a process that has begun to use
# CUDA cannot be forked.
LIBRARIES_WITHOUT_GPU = ("peft", "trl.trainer.sft_trainer")
# torch otherwise starts CUDA to say whether there is a GPU; and files are in UTF-8 for every child.
ENVIRONMENT = {"PYTORCH_NVML_BASED_CUDA_CHECK": "1", "PYTHONUTF8": "1"}
READY = b"r"
PID, EXIT = "pid:", "exit:"  # what a status begins with
PASSED = 4  # descriptors with a request: stdin, output, events, and the child's status
PREFIX = 4  # bytes of a request's length
ENDING = 5  # seconds that the threads of a killed server may take to end
LONGEST_NAME = 15  # characters, of Linux
REQUEST = ("arguments", "environment", "variable", "folder")


class ForkServerFailed(Exception):
    """There is no server that forks: it ended, or its libraries began to use a GPU."""


class ForkedProcess:
    """A forked child, with the part of Popen's interface that ends and reaps one.

    `stdin` is the end that this process holds; a closed one tells the child that we are gone.
    Raises ForkServerFailed if the server ended before it forked.
    """

    def __init__(self, stdin: int, status: int) -> None:
        self.stdin = os.fdopen(stdin, "wb", buffering=0)
        self.returncode: int | None = None
        self.pid = 0
        self._status = status
        while not self.pid:
            if self._listen(0.5) is not None and not self.pid:
                self.stdin.close()
                raise ForkServerFailed("the fork server ended")

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal; None while the child runs."""
        if self.returncode is None:
            self._listen(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code. Raises subprocess.TimeoutExpired."""
        end = math.inf if timeout is None else time.monotonic() + timeout
        while self.returncode is None:
            rest = end - time.monotonic()
            if rest <= 0:
                raise subprocess.TimeoutExpired("child", timeout or 0)
            self._listen(min(rest, 0.5))
        return self.returncode

    def _listen(self, seconds: float) -> int | None:
        """Wait for what child and server write: its process id, and in the end its exit code."""
        if not select.select([self._status], [], [], seconds)[0]:
            return self.returncode
        words = os.read(self._status, 64).decode().split()
        for word in words:
            if word.startswith(PID):
                self.pid = int(word.removeprefix(PID))
            else:
                self.returncode = int(word.removeprefix(EXIT))
        if not words:  # the server is gone, the child with it or soon
            self.returncode = -signal.SIGKILL
        if self.returncode is not None:
            os.close(self._status)
        return self.returncode


class ForkServer:
    """The server's process, seen from its starter; one at a time forks, from any thread."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._lock = threading.Lock()
        self._ready = False
        self._channel, channel = socket.socketpair()
        with channel:
            self._process = subprocess.Popen(
                # -P: as for every child, the current folder shadows no library.
                [sys.executable, "-P", "-m", "retune.forkserver", str(channel.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # what an import warns of, children need not repeat
                env=ENVIRONMENT | environment,
                pass_fds=(channel.fileno(),),
                start_new_session=True,
            )

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    @property
    def failed(self) -> bool:
        """Say whether it ended before it could fork, as the next one would."""
        return self.ended and not self._ready

    def fork(
        self,
        arguments: list[str],
        environment: dict[str, str],
        output: int,
        events: tuple[str, int],
    ) -> ForkedProcess:
        """Run the script `arguments[0]` in a new process group, its output into `output`.

        `events` is one more descriptor with the variable that tells the child its number. Raises
        ForkServerFailed; then nothing was started.
        """
        variable, channel = events
        fields = (arguments, environment, variable, str(Path.cwd()))
        request = json.dumps(dict(zip(REQUEST, fields, strict=True))).encode()
        reading, stdin = os.pipe()
        status, writing = os.pipe()
        try:
            with self._lock:
                self._await_ready()
                self._send(request, [reading, output, channel, writing])
        except BaseException as error:
            os.close(stdin)
            os.close(status)
            if not isinstance(error, OSError | ForkServerFailed):
                raise  # a cancellation
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(ENDING)
            raise ForkServerFailed("the fork server ended") from error
        finally:
            os.close(reading)
            os.close(writing)
        return ForkedProcess(stdin, status)

    def _send(self, request: bytes, descriptors: list[int]) -> None:
        """Send a request whole: after a part of one the server would wait for the rest for ever."""
        message = len(request).to_bytes(PREFIX, "big") + request
        sent = 0
        try:
            sent = socket.send_fds(self._channel, [message], descriptors)
            self._channel.sendall(message[sent:])
        except BaseException:
            self._channel.shutdown(socket.SHUT_RDWR)  # its children report all the same
            raise

    def close(self) -> None:
        """Let the server end, after the children that it has."""
        with self._lock:
            self._channel.close()
        threading.Thread(target=self._process.wait, daemon=True).start()

    def _await_ready(self) -> None:
        while not self._ready:
            # Waking now and then lets a cancellation reach this thread.
            if select.select([self._channel], [], [], 0.5)[0]:
                if self._channel.recv(1) != READY:
                    self._process.wait()
                    raise ForkServerFailed("the fork server did not start")
                self._ready = True


_lock = threading.Lock()
_server: tuple[dict[str, str], ForkServer] | None = None
# Variables that no library reads when it is imported; with another value a server still serves.
LATE = {"HF_TOKEN"}
OURS = "RETUNE_"  # what ours begin with, which are late too


def server(environment: dict[str, str]) -> ForkServer:
    """Return the server of this process whose libraries were imported with `environment`, started if
    need be.

    Libraries read variables when they are imported, so another environment is another server; the
    one before ends. Raises ForkServerFailed if none works here.
    """
    global _server
    early = {
        name: value
        for name, value in environment.items()
        if name not in LATE and not name.startswith(OURS)
    }
    with _lock:
        if _server:
            current, running = _server
            if running.failed:
                raise ForkServerFailed("no fork server works here")
            if current == early and not running.ended:
                return running
            running.close()
        _server = early, ForkServer(early)
        return _server[1]


def _import_libraries() -> None:
    # To look for garbage among the millions of objects that stay is a fifth of the time of an import.
    gc.disable()
    from torch import cuda

    libraries = LIBRARIES if cuda.is_available() else LIBRARIES + LIBRARIES_WITHOUT_GPU
    with _capability_by_nvml() if cuda.is_available() else nullcontext():
        for library in libraries:
            with suppress(Exception):  # the child that needs it says why it cannot be imported
                importlib.import_module(library)
    _compile_patterns()
    if cuda.is_initialized():
        raise SystemExit("an import began to use CUDA: children cannot be forked")
    # What is never collected is never written to, and stays one copy for all children.
    gc.collect()
    gc.freeze()
    gc.enable()


def _compile_patterns() -> None:
    """Have those by which transformers renames weights, which whoever loads or saves a model needs."""
    with suppress(Exception):
        from transformers.conversion_mapping import get_checkpoint_conversion_mapping

        get_checkpoint_conversion_mapping("llama")


@contextmanager
def _capability_by_nvml() -> Iterator[None]:
    """Tell of the GPU what imports ask (torchao's do, which transformers imports) without CUDA."""
    import pynvml
    from torch import cuda
    from torch._inductor import config
    from torch.utils import _triton

    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    capability = tuple(pynvml.nvmlDeviceGetCudaComputeCapability(handle))
    pynvml.nvmlShutdown()
    by_cuda = cuda.get_device_capability
    cuda.get_device_capability = lambda device=None: capability
    config.triton_disable_device_detection = True
    yield
    config.triton_disable_device_detection = False
    _triton.has_triton.cache_clear()
    cuda.get_device_capability = by_cuda


def _serve(channel: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """Fork children until the starter is gone; return a request in its child, None in the server."""
    waking, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    statuses: dict[int, int] = {}  # where to write the end of which process
    open_channel = True
    while open_channel or statuses:
        awaited: list[int | socket.socket] = [waking, *([channel] if open_channel else [])]
        ready, _, _ = select.select(awaited, [], [])
        if waking in ready:
            os.read(waking, 4096)
            _reap(statuses)
        if channel in ready:
            length, descriptors, _, _ = socket.recv_fds(channel, PREFIX, PASSED)
            whole = _exactly(channel, int.from_bytes(length, "big")) if length else b""
            if not whole:  # the starter is gone, or gave up in the middle of a request
                open_channel = False
                continue
            request = json.loads(whole)
            pid = os.fork()
            if not pid:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for descriptor in (waking, wake, channel.detach(), *statuses.values()):
                    os.close(descriptor)
                return request, descriptors
            *others, status = descriptors
            for descriptor in others:
                os.close(descriptor)
            statuses[pid] = status
    return None


def _reap(statuses: dict[int, int]) -> None:
    for pid, status in list(statuses.items()):
        ended, code = os.waitpid(pid, os.WNOHANG)
        if ended:
            _say(status, EXIT, os.waitstatus_to_exitcode(code))
            os.close(statuses.pop(pid))


def _say(status: int, word: str, number: int) -> None:
    with suppress(BrokenPipeError):  # nobody waits any more
        os.write(status, f"{word}{number}\n".encode())


def _exactly(channel: socket.socket, length: int) -> bytes:
    """Return the next `length` bytes, none if the channel ends before."""
    received = b""
    while len(received) < length:
        part = channel.recv(length - len(received))
        if not part:
            return b""
        received += part
    return received


def _become(request: dict[str, Any], descriptors: list[int]) -> None:
    """In a forked child: be a process as Popen would have started it, as far as a script sees."""
    stdin, output, events, status = descriptors
    os.setsid()  # before anyone knows whom to end
    _say(status, PID, os.getpid())
    os.close(status)
    for source, target in ((stdin, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    os.close(stdin)
    os.close(output)
    with suppress(OSError):  # what `top` shows, where the system lets a process name itself
        name = Path(request["arguments"][0]).parent.name
        Path("/proc/self/comm").write_text(f"retune-{name}"[:LONGEST_NAME])
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"] | {request["variable"]: str(events)})
    _read_again_how_to_reach_the_hub()
    sys.argv = request["arguments"]
    runpy.run_path(sys.argv[0], run_name="__main__")
    _leave()


def _leave() -> NoReturn:
    """End a child that did its work as Python does, but for taking its millions of objects apart, one
    by one, for which a core takes a second."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _read_again_how_to_reach_the_hub() -> None:
    """A server is offline and has no token; huggingface_hub and datasets ask that when imported."""
    modules = ("huggingface_hub.constants", "huggingface_hub.hf_api", "datasets.config")
    constants, api, config = (sys.modules.get(name) for name in modules)
    if constants:
        importlib.reload(constants)
    if constants and api:
        api.api.endpoint = constants.ENDPOINT
    if constants and config:
        offline = constants.HF_HUB_OFFLINE
        known = {"HF_ENDPOINT": constants.ENDPOINT, "HF_HUB_OFFLINE": offline}
        vars(config).update(known | {"HF_DATASETS_OFFLINE": offline})


if __name__ == "__main__":
    CHANNEL = socket.socket(fileno=int(sys.argv[1]))
    _import_libraries()
    CHANNEL.sendall(READY)
    if FORKED := _serve(CHANNEL):
        _become(*FORKED)
