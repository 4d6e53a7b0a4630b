"""`retune ui`: both UIs on loopback over the home folder's databases, and a worker for the runs.

Prefect's API runs commands as the user, so nothing is deployed to it, and no sign-in sent to it,
before it is certain that the server which answers is the process that was started here.
"""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from flows import local
from flows.chores import Chore, Chores
from flows.recipes import deployments_file
from flows.runs_at_work import end_idle, patience, runs_of
from flows.servers import ServerError, end, logs, require_ours
from flows.supervisor import Supervisor
from retune.access import LOOPBACK, is_of_this_home, other_users, sign_in, sign_in_file, ui_file
from retune.disk_space import is_disk_full
from retune.environment import python_path
from retune.errors import RetuneError
from retune.escaping import terminal
from retune.files import digest, write_whole
from retune.home import home
from retune.moved_home import settle
from retune.processes import name_of, running, this_process
from retune.saved_view import NAME, experiments, link
from retune.tracking import tracking_uri

if TYPE_CHECKING:
    from flows.watchdog import Watchdog

WORK_POOL = "retune"
PREFECT, MLFLOW, WORKER = "prefect-server", "mlflow-server", "prefect-worker"
WATCH = 10  # seconds between two looks at the runs
KNOWN = 300  # seconds for which MLflow's server knows a password that was right
VIEWS = 3  # whose addresses are printed: of the experiments that were last changed


def serve(
    prefect_port: int, mlflow_port: int, mlflow_sign_in: bool, wanted: Sequence[Chore] = ()
) -> None:
    """Serve until interrupted (SIGINT, SIGTERM or SIGHUP) and take the servers down with it.

    A run that is at work then writes its checkpoint first; a second interrupt does not wait.
    MLflow asks for a sign-in if `mlflow_sign_in`, or if the machine has other users. `wanted` are the
    commands that run by a schedule meanwhile.
    A service that dies is started again, and so is a run (see `flows.watchdog`). Raises RuntimeError
    when a server does not come up or ends again and again, a port is not free, or MLflow cannot ask for
    a sign-in where it must.
    """
    _obey_signals()
    local.configure()
    _end_leftovers()
    _require_free("--prefect-port", prefect_port)
    _require_free("--mlflow-port", mlflow_port)
    needs_sign_in = _needs_mlflow_sign_in(mlflow_sign_in)
    prefect_ui, mlflow_ui = f"http://127.0.0.1:{prefect_port}", f"http://127.0.0.1:{mlflow_port}"
    os.environ |= local.own_server(prefect_port) | {
        "PREFECT_API_URL": f"{prefect_ui}/api",
        "PREFECT_SERVER_UI_API_URL": f"{prefect_ui}/api",
        "PREFECT_UI_URL": prefect_ui,
        "RETUNE_HOME": str(home()),  # runs start in the folder of the deployments
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # seven more processes, for nothing used here
    }
    local.reread()
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        settle()
    supervisor = Supervisor(_tell)
    with ExitStack() as stack:
        stack.callback(supervisor.end)
        supervisor.start(
            PREFECT,
            *_prefect_command(prefect_port),
            env={"PYTHONPATH": python_path()},
            ready=lambda process: require_ours(
                PREFECT, process, prefect_port, "/api/health", "/api/admin/version"
            ),
        )
        private = "/api/2.0/mlflow/experiments/search?max_results=1" if needs_sign_in else ""
        supervisor.start(
            MLFLOW,
            _program("mlflow"),
            *_mlflow_command(mlflow_port),
            *("--app-name", "retune-sign-in" if needs_sign_in else "retune"),
            env=_mlflow_sign_in() if needs_sign_in else {},
            ready=lambda process: require_ours(MLFLOW, process, mlflow_port, "/health", private),
        )
        supervisor.wait_until_ready(PREFECT)
        ports = prefect_port, mlflow_port
        _note(ports, supervisor)
        stack.callback(ui_file().unlink, missing_ok=True)
        watchdog = _watchdog()
        _run("prefect", "work-pool", "create", WORK_POOL, "--type", "process", "--overwrite")
        _run("prefect", "--no-prompt", "deploy", "--all", folder=deployments_file().parent)
        _add_links()
        _start_worker(supervisor)
        stack.callback(lambda: _end_runs(supervisor.processes[WORKER].pid))
        _note(ports, supervisor)
        supervisor.wait_until_ready(MLFLOW)
        _print_addresses(prefect_ui, mlflow_ui, needs_sign_in)
        _look_after(supervisor, watchdog, _chores(stack, wanted), lambda: _note(ports, supervisor))


def work(wanted: Sequence[Chore] = ()) -> None:
    """Start the worker of this machine for a Prefect server of the user's, and look after it and its
    runs until interrupted, as `serve`. Raises RuntimeError if it ends again and again."""
    _obey_signals()
    watchdog = _watchdog()
    supervisor = Supervisor(_tell)
    with ExitStack() as stack:
        stack.callback(supervisor.end)
        _start_worker(supervisor)
        stack.callback(lambda: _end_runs(supervisor.processes[WORKER].pid))
        print(f"A worker takes the runs of {local.api_address()}. Ctrl-C ends it.", flush=True)
        _look_after(supervisor, watchdog, _chores(stack, wanted), lambda: None)


def _obey_signals() -> None:
    for stop in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if stop != signal.SIGHUP or signal.getsignal(stop) != signal.SIG_IGN:  # as nohup wants it
            signal.signal(stop, _interrupted)


def _start_worker(supervisor: Supervisor) -> None:
    # One run at a time: two trainings would fight over the machine.
    command = ("worker", "start", "--pool", WORK_POOL, "--limit", "1")
    # The runs of a worker that was killed go on without it.
    supervisor.start(WORKER, _program("prefect"), *command, env=local.PATIENT, whole=False)


def _watchdog() -> "Watchdog":
    """Return who looks after the runs, after its first look: whatever is open now was left open."""
    from flows.watchdog import Watchdog

    watchdog = Watchdog()
    for sentence in watchdog.look(starting=True):
        _tell(sentence)
    return watchdog


def _add_links() -> None:
    """Say in the deployments where to look; a server that is busy takes none of the rest with it."""
    from httpx import HTTPError
    from prefect.exceptions import PrefectException

    from flows.deployment_links import add_links

    try:
        add_links()
    except (HTTPError, PrefectException) as error:
        _tell(f"The deployments' descriptions are without links ({type(error).__name__})")


def _chores(stack: ExitStack, wanted: Sequence[Chore]) -> Chores:
    chores = Chores(wanted, datetime.now().astimezone())
    stack.callback(chores.end)
    return chores


def _look_after(
    supervisor: Supervisor, watchdog: "Watchdog", chores: Chores, changed: Callable[[], None]
) -> None:
    """Start services again that die, look after the runs, and do what is due, until interrupted.
    Raises ServerError."""
    last, noted = time.monotonic(), True
    while True:
        time.sleep(1)
        with _without_room():
            noted = not supervisor.look() and noted
            if not noted:
                changed()
                noted = True
            if time.monotonic() - last >= WATCH:
                for sentence in [*watchdog.look(), *chores.look(datetime.now().astimezone())]:
                    _tell(sentence)
                last = time.monotonic()


@contextmanager
def _without_room() -> Iterator[None]:
    """Go on although the disk is full: what could not be written is written when there is room."""
    try:
        yield
    except OSError as error:
        if isinstance(error, RetuneError) or not is_disk_full(error):
            raise


def _tell(sentence: str) -> None:
    """Say what happened, on the terminal and in a log that stays."""
    line = f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S}  {terminal(sentence)}"
    print(line, flush=True)
    with _without_room(), (logs() / "operate.log").open("a", encoding="utf-8") as log:
        log.write(f"{line}\n")


def _interrupted(_signal: int, _frame: object) -> None:
    raise SystemExit(0)


def _print_addresses(prefect_ui: str, mlflow_ui: str, mlflow_sign_in: bool) -> None:
    """Print the addresses and how to sign in; the password itself only where a person looks."""
    secret = sign_in() if sys.stdout.isatty() else f"the line in {sign_in_file()}"
    print(f"Prefect: {prefect_ui}  (Deployments → choose one → Run)")
    print(f"         It asks for a password once in each browser: {secret}")
    print(f"MLflow:  {mlflow_ui}")
    if mlflow_sign_in:
        print("         It asks for name and password: the parts of the same before and after ':'")
    for name, experiment in experiments(VIEWS):
        print(f"         {NAME} of {name}: {link(mlflow_ui, experiment)}")
    print("Ctrl-C stops both.", flush=True)


# What runs already.


def _end_leftovers() -> None:
    """End what a `retune ui` of this home folder left when it was killed.

    Raises ServerError if one still runs: two servers and two workers on one database.
    """
    try:
        record = json.loads(ui_file().read_text())
        if not is_of_this_home(record):
            return
        first, children = running(record["process"]), list(map(running, record["started"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return  # there is none, or it is damaged
    if first:
        raise ServerError(
            f"`retune ui` of {home()} runs already (process {first.pid}), at "
            f"http://127.0.0.1:{record.get('prefect_port')}: use it, or stop it first"
        )
    interrupted = False
    for process in filter(None, reversed(children)):
        interrupted |= _end_runs(process.pid, "Ctrl-C ends it at once, and this start")
        interrupted |= end(process)
    ui_file().unlink(missing_ok=True)
    if interrupted:
        raise SystemExit(0)


def _note(ports: tuple[int, int], supervisor: Supervisor) -> None:
    """Leave for others which servers are ours, and what to end if nobody else does."""
    record = {
        "process": this_process(),
        "home": str(home()),
        "prefect_port": ports[0],
        "mlflow_port": ports[1],
        "started": list(_names(supervisor)),
    }
    write_whole(ui_file(), json.dumps(record))


def _names(supervisor: Supervisor) -> Iterator[str]:
    for process in supervisor.processes.values():
        with suppress(psutil.NoSuchProcess):  # it is started again
            yield name_of(process.pid)


def _require_free(option: str, port: int) -> None:
    """Raise RuntimeError if anybody listens on the port, on whichever address of this machine."""
    # Whoever types `localhost` may come to ::1, and give the sign-in to who listens there.
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        try:
            with socket.socket(family) as probe:
                # As servers do: what only lingers from an earlier one is no obstacle.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((address, port))
        except OSError as error:
            if family == socket.AF_INET6 and error.errno != errno.EADDRINUSE:
                continue  # this machine has no IPv6
            raise ServerError(
                f"port {port} is not free ({error.strerror}){_holder(port)}: nothing was started or "
                f"deployed; stop what listens there, or choose another port with {option}"
            ) from None


def _holder(port: int) -> str:
    """Return who listens on the port as far as this user may know, as the end of a sentence."""
    with suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            if (
                connection.laddr
                and connection.laddr.port == port
                and connection.status == psutil.CONN_LISTEN
                and connection.pid
            ):
                return (
                    f", process {connection.pid} ({psutil.Process(connection.pid).name()}) has it"
                )
    return ""


# MLflow.


def _mlflow_command(port: int) -> tuple[str, ...]:
    names = [f"{name}:{port}" for name in LOOPBACK]
    return (
        *("server", "--host", "127.0.0.1", "--port", str(port)),
        *("--workers", "1"),  # it has one reader; and the first makes the sign-in's user
        *("--backend-store-uri", tracking_uri()),
        *("--allowed-hosts", ",".join(names)),
        *("--cors-allowed-origins", ",".join(f"http://{name}" for name in names)),
    )


def _needs_mlflow_sign_in(required: bool) -> bool:
    """Tell whether MLflow is to ask for a sign-in.

    Raises ServerError if it must and what it takes is not installed.
    """
    users = other_users()
    if (users or required) and not find_spec("flask_wtf"):
        reason = f"this machine has other users ({', '.join(users[:5])})" if users else "you say so"
        raise ServerError(
            f"MLflow must ask for a sign-in, since {reason}, and lacks what that takes: "
            f"`{sys.executable} -m pip install flask-wtf`, or make the environment anew (`make env`)"
        )
    return bool(users) or required


def _mlflow_sign_in() -> dict[str, str]:
    """Return what MLflow's app for sign-ins reads; it knows one user, the home's."""
    name, _, password = sign_in().partition(":")
    config = home() / "mlflow-sign-in.ini"
    # Its database keeps the first password that it saw, so each password gets its own.
    users = home() / f"mlflow-users-{digest(password)}.db"
    write_whole(
        config,
        # In a file of this kind, % stands for other values of it. To check a password takes a third of a
        # second, at each request: it is not checked again for a while.
        f"[mlflow]\ndefault_permission = NO_PERMISSIONS\nauth_cache_ttl_seconds = {KNOWN}\n"
        f"database_uri = sqlite:///{users}\n".replace("%", "%%"),
    )
    return {
        "MLFLOW_AUTH_CONFIG_PATH": str(config),
        "MLFLOW_AUTH_ADMIN_USERNAME": name,
        "MLFLOW_AUTH_ADMIN_PASSWORD": password,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": digest(["mlflow", password]),
    }


# Prefect.


def _prefect_command(port: int) -> tuple[str, ...]:
    """Return what `prefect server start` runs, with pages that say what the server answers."""
    return (
        *(sys.executable, "-P", "-m", "uvicorn", "--factory", "flows.prefect_pages:create_app"),
        *("--host", "127.0.0.1", "--port", str(port), "--log-level", "error"),
    )


def _program(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def _end_runs(worker: int, at_once: str = "Ctrl-C again ends it at once") -> bool:
    """End the runs that the process `worker` started, with time for their checkpoints, and then it.

    Told to end with them, it would kill them on the spot. Before the server: they tell it.
    An interrupt does not wait; returns whether there was one. `at_once` says so to the user.
    """
    runs = runs_of(worker, orphans=True) or (end_idle(worker) if _is_worker(worker) else [])
    if not runs:
        return False
    seconds = patience()
    print(
        f"Waiting for the run at work to write its checkpoint, at most {seconds} seconds; "
        f"{at_once}.",
        flush=True,
    )
    for run in runs:
        with suppress(psutil.NoSuchProcess):
            run.terminate()
    try:
        _, alive = psutil.wait_procs(runs, timeout=seconds)
    except SystemExit:
        return True
    return not alive and _end_runs(worker, at_once)


def _is_worker(pid: int) -> bool:
    """Tell a worker from a server, which is to be told to end: killed, it would leave its own processes
    behind, which hold its port."""
    try:
        return "worker" in psutil.Process(pid).cmdline()
    except psutil.NoSuchProcess:
        return False


def _run(program: str, *arguments: str, folder: Path = Path()) -> None:
    completed = subprocess.run(
        [_program(program), *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    if completed.returncode:
        raise ServerError(
            f"`{program} {' '.join(arguments)}` failed: "
            f"{(completed.stderr or completed.stdout).strip()[-800:]}"
        )
