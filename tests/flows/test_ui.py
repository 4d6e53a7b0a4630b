"""`retune ui` as a person starts and stops it, and what a schedule does meanwhile."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

from tests.flows.test_line import sums
from tests.tasks.conftest import make_base

ROOT = Path(__file__).parent.parent.parent
PATIENCE = 150  # seconds for three servers on a loaded machine


class Servers(NamedTuple):
    prefect: str
    mlflow: str
    pid: int

    def api(self, path: str, body: Any) -> Any:
        """Post to Prefect's API and return its answer."""
        request = urllib.request.Request(
            f"{self.prefect}/api/{path}",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def retune_ui(home: Path) -> Iterator[Servers]:
    """Start `retune ui`, and see that it takes everything down with it in the end."""
    prefect, mlflow = free_port(), free_port()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT", "MLFLOW"))}
    environment |= {"RETUNE_HOME": str(home)}
    command = [Path(sys.executable).with_name("retune"), "ui"]
    ui = subprocess.Popen(
        [*command, "--prefect-port", str(prefect), "--mlflow-port", str(mlflow)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    children = []
    try:
        deadline = time.monotonic() + PATIENCE
        printed = ""
        while "Ctrl-C" not in printed:
            assert time.monotonic() < deadline
            assert ui.poll() is None, printed
            printed += ui.stdout.readline()
        children = psutil.Process(ui.pid).children(recursive=True)
        yield Servers(f"http://127.0.0.1:{prefect}", f"http://127.0.0.1:{mlflow}", ui.pid)
    finally:
        ui.send_signal(signal.SIGTERM)
        assert ui.wait(timeout=60) == 0
    _, alive = psutil.wait_procs(children, timeout=20)
    assert len(children) >= 3
    assert alive == []


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    with retune_ui(tmp_path_factory.mktemp("home")) as running:
        yield running


def test_both_uis_come_up_with_the_deployments(servers):
    with urllib.request.urlopen(f"{servers.mlflow}/health") as answer:
        assert answer.read() == b"OK"
    deployments = {entry["name"]: entry for entry in servers.api("deployments/filter", {})}
    assert set(deployments) == {"demo", "llama31-8b-finetome", "llama31-8b-finetome-10k"}
    assert [s["schedule"]["cron"] for s in deployments["llama31-8b-finetome"]["schedules"]] == [
        "0 2 * * 0"
    ]


def test_a_scheduled_run_on_bad_data_fails_before_any_training(servers, tmp_path):
    make_base(tmp_path / "base")
    rows = sums(400)
    for row in rows[:160]:
        row["conversations"].reverse()
    (tmp_path / "flipped.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (demo,) = servers.api("deployments/filter", {"deployments": {"name": {"any_": ["demo"]}}})
    schedule = {
        # A minute, because the scheduler looks at most once a minute, and only ahead.
        "schedule": {"interval": 60, "anchor_date": datetime.now(UTC).isoformat()},
        "active": True,
        "slug": "bad-data",
        "parameters": {
            "name": "bad-data",
            "model": {"base": str(tmp_path / "base"), "load_in_4bit": False},
            "dataset": {"source": str(tmp_path / "flipped.jsonl")},
            "validation": {},
        },
    }
    servers.api(f"deployments/{demo['id']}/schedules", [schedule])
    run = finished_run(servers, demo["id"])
    assert run["auto_scheduled"]
    assert run["state"]["name"] == "Failed"
    for words in (
        "dataset rejected",
        "at most 5% of the rows have roles out of order",
        "40.0% (160 of 400 rows), e.g. row 0 (",
        "validation.tolerances.roles_out_of_order",
        "Repair the dataset, or change the setting named",
    ):
        assert words in run["state"]["message"]
    tasks = servers.api("task_runs/filter", {"flow_runs": {"id": {"any_": [run["id"]]}}})
    ran = {task["name"].partition("-")[0] for task in tasks}
    assert ran == {"pin_inputs", "conform", "fetch", "validate"}


def finished_run(servers: Servers, deployment: str) -> dict[str, Any]:
    """Wait for the deployment's first run that has come to an end."""
    deadline = time.monotonic() + 2 * PATIENCE
    ends = {"flow_runs": {"state": {"type": {"any_": ["COMPLETED", "FAILED", "CRASHED"]}}}}
    while not (found := servers.api(
        "flow_runs/filter", {"deployments": {"id": {"any_": [deployment]}}, **ends}
    )):  # fmt: skip
        assert time.monotonic() < deadline, servers.api("flow_runs/filter", {})
        time.sleep(1)
    return found[0]
