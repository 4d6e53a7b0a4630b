"""`retune ui` as a person starts and stops it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil

ROOT = Path(__file__).parent.parent.parent
PATIENCE = 150  # seconds for three servers on a loaded machine


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_both_uis_come_up_with_the_deployments_and_go_down_together(tmp_path):
    prefect, mlflow = free_port(), free_port()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT", "MLFLOW"))}
    command = [Path(sys.executable).with_name("retune"), "ui"]
    ui = subprocess.Popen(
        [*command, "--prefect-port", str(prefect), "--mlflow-port", str(mlflow)],
        cwd=ROOT,
        env=environment | {"RETUNE_HOME": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        deadline = time.monotonic() + PATIENCE
        printed = ""
        while "Ctrl-C" not in printed:
            assert time.monotonic() < deadline
            assert ui.poll() is None, printed
            printed += ui.stdout.readline()
        with urllib.request.urlopen(f"http://127.0.0.1:{mlflow}/health") as answer:
            assert answer.read() == b"OK"
        request = urllib.request.Request(
            f"http://127.0.0.1:{prefect}/api/deployments/filter",
            data=b"{}",
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as answer:
            deployments = {entry["name"]: entry for entry in json.load(answer)}
        assert set(deployments) == {"demo", "llama31-8b-finetome", "llama31-8b-finetome-10k"}
        assert [s["schedule"]["cron"] for s in deployments["llama31-8b-finetome"]["schedules"]] == [
            "0 2 * * 0"
        ]
        servers = psutil.Process(ui.pid).children(recursive=True)
        assert len(servers) >= 3
    finally:
        ui.send_signal(signal.SIGTERM)
        assert ui.wait(timeout=60) == 0
    _, alive = psutil.wait_procs(servers, timeout=20)
    assert alive == []
