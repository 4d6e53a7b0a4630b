"""`retune ui`: both UIs on loopback over the home folder's databases, and a worker for the runs."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from flows import local
from retune.tracking import tracking_uri
from retune.workspace import home, write_whole

WORK_POOL = "retune"


def serve(prefect_port: int, mlflow_port: int) -> None:
    """Serve until interrupted (SIGINT or SIGTERM) and take the servers down with it.

    Raises RuntimeError when a server does not come up or ends by itself.
    """
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, _interrupted)
    local.configure()
    home().mkdir(parents=True, exist_ok=True)
    prefect_ui, mlflow_ui = f"http://127.0.0.1:{prefect_port}", f"http://127.0.0.1:{mlflow_port}"
    os.environ |= {
        "PREFECT_API_URL": f"{prefect_ui}/api",
        "PREFECT_SERVER_UI_API_URL": f"{prefect_ui}/api",
        "PREFECT_UI_URL": prefect_ui,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # seven more processes, for nothing used here
    }
    with ExitStack() as stack:
        start = lambda name, *command: stack.enter_context(_process(name, *command))  # noqa: E731
        prefect = start("prefect-server", "prefect", "server", "start", "--port", str(prefect_port))
        store = ("--backend-store-uri", tracking_uri(), "--port", str(mlflow_port))
        mlflow = start("mlflow-server", "mlflow", "server", "--host", "127.0.0.1", *store)
        _wait_for(f"{prefect_ui}/api/health", "prefect-server", prefect)
        write_whole(
            local.ui_file(), json.dumps({"prefect_api": f"{prefect_ui}/api", "pid": os.getpid()})
        )
        stack.callback(local.ui_file().unlink, missing_ok=True)
        _run("prefect", "work-pool", "create", WORK_POOL, "--type", "process", "--overwrite")
        _run("prefect", "--no-prompt", "deploy", "--all")
        # One run at a time: two trainings would fight over the machine.
        worker = start(
            "prefect-worker", "prefect", "worker", "start", "--pool", WORK_POOL, "--limit", "1"
        )
        _wait_for(f"{mlflow_ui}/health", "mlflow-server", mlflow)
        print(f"Prefect: {prefect_ui}  (Deployments → choose one → Run)")
        print(f"MLflow:  {mlflow_ui}")
        print("Ctrl-C stops both.", flush=True)
        while all(process.poll() is None for process in (prefect, mlflow, worker)):
            time.sleep(1)
        raise RuntimeError(f"a server ended by itself; its log is in {_logs()}")


def _interrupted(_signal: int, _frame: object) -> None:
    raise SystemExit(0)


def _logs() -> Path:
    return home() / "logs"


def _program(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


@contextmanager
def _process(name: str, program: str, *arguments: str) -> Iterator[subprocess.Popen]:
    _logs().mkdir(exist_ok=True)
    with (_logs() / f"{name}.log").open("w") as log:
        process = subprocess.Popen(
            [_program(program), *arguments], stdout=log, stderr=subprocess.STDOUT
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()


def _run(program: str, *arguments: str) -> None:
    done = subprocess.run(
        [_program(program), *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(
            f"`{program} {' '.join(arguments)}` failed: {(done.stderr or done.stdout).strip()[-800:]}"
        )


def _wait_for(address: str, name: str, process: subprocess.Popen) -> None:
    for _ in range(240):
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
        if process.poll() is not None:
            break
    log = _logs() / f"{name}.log"
    raise RuntimeError(
        f"{name} did not come up at {address}; is the port taken? Its log, {log}, ends:\n"
        + "\n".join(log.read_text().splitlines()[-5:])
    )
