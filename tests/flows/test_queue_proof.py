"""One run at a time on a GPU, and one run after a time without power: with servers and workers as a
person starts them, and a program that says that the machine has a GPU."""

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from retune.home import cache_dir
from tests.databases import furnish
from tests.flows.chaos import GOOD, prefect_rows, state
from tests.flows.servers import Servers, retune_ui, wait_for
from tests.flows.test_chaos import recipe
from tests.flows.test_line import Project
from tests.flows.test_soak import SHORT_WAITS, second_worker, states

DEPLOYMENTS = {"demo": "first", "smollm2": "second"}  # and the recipe that each runs
DUE, PERIOD, AHEAD = 6, 5, 90  # runs, seconds between two, seconds until the first
OFTEN = {"PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "5"}  # else once a minute
PATIENCE = 900  # seconds for a run, on a loaded machine
# It lists the ids of GPUs alone: whatever would use one finds none.
NVIDIA_SMI = """#!/bin/sh
case "$*" in *index,uuid,uuid*) echo "0, {gpu}, {gpu}" ;; *) exit 1 ;; esac
"""


@pytest.fixture
def gpu(tmp_path, monkeypatch) -> Iterator[str]:
    """The id of the one GPU that processes find which are started from here."""
    gpu = f"GPU-{uuid4()}"
    program = tmp_path / "programs" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text(NVIDIA_SMI.format(gpu=gpu))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    yield gpu
    for file in (cache_dir() / "gpus").glob(f"{gpu}.*"):
        file.unlink()


def begin(servers: Servers, deployment: str, settings: dict[str, Any]) -> str:
    path = f"deployments/{servers.deployment(deployment)}/create_flow_run"
    return servers.api(path, {"parameters": settings})["id"]


def worked(home: Path, run: str) -> tuple[str, str]:
    """Return when a run began its first stage and ended its last."""
    query = (
        "select min(start_time), max(end_time) from task_run "
        "where flow_run_id = ? and name not like 'pin_inputs%'"
    )
    ((began, ended),) = prefect_rows(home, query, run)
    return began, ended


def log(home: Path, run: str) -> str:
    query = "select message from log where flow_run_id = ? order by timestamp"
    return "\n".join(message for (message,) in prefect_rows(home, query, run))


def has_ended(home: Path, *runs: str) -> bool:
    return all(state(home, run)[0] in (*GOOD, "Failed", "Rejected", "Crashed") for run in runs)


def scheduled(home: Path) -> list[str]:
    """Return the runs that the schedule of `demo` made, in the order in which they are due."""
    query = (
        "select r.id from flow_run r join deployment d on r.deployment_id = d.id "
        "where r.auto_scheduled and d.name = 'demo' order by r.expected_start_time"
    )
    return [run for (run,) in prefect_rows(home, query)]


@pytest.fixture
def settings(tmp_path) -> dict[str, Any]:
    """A recipe that makes no files."""
    return recipe(Project(tmp_path)) | {"merging": {"save_method": "lora"}, "quantization": {}}


@pytest.mark.proof
@pytest.mark.timeout(3600)
def test_one_run_works_on_a_gpu_whichever_worker_and_recipe(tmp_path, gpu, settings):
    home = furnish(tmp_path / "home")
    with retune_ui(home, **SHORT_WAITS) as servers, second_worker(home):
        runs = [
            begin(servers, deployment, settings | {"name": name})
            for deployment, name in DEPLOYMENTS.items()
        ]
        wait_for(partial(has_ended, home, *runs), PATIENCE)
    assert {state(home, run)[0] for run in runs} <= set(GOOD), [state(home, r) for r in runs]
    first, second = sorted(runs, key=partial(worked, home))
    assert worked(home, first)[1] <= worked(home, second)[0]
    waits = f"which works on the GPU {gpu} (schedule.gpu=alone)"
    assert waits in log(home, second)
    assert waits not in log(home, first)


@pytest.mark.proof
@pytest.mark.timeout(3600)
def test_a_time_without_power_is_caught_up_with_once(tmp_path, settings):
    home = furnish(tmp_path / "home")
    settings["dataset"]["source"] = str(tmp_path / "flipped.jsonl")  # by which a run ends soon
    with retune_ui(home, **OFTEN) as servers:
        begins = datetime.now(UTC) + timedelta(seconds=AHEAD)
        rule = f"FREQ=SECONDLY;INTERVAL={PERIOD};COUNT={DUE}"
        due = {"rrule": f"DTSTART:{begins:%Y%m%dT%H%M%SZ}\nRRULE:{rule}", "timezone": "UTC"}
        entry = {"schedule": due, "active": True, "slug": "often", "parameters": settings}
        servers.api(f"deployments/{servers.deployment('demo')}/schedules", [entry])
        wait_for(lambda: len(scheduled(home)) == DUE, AHEAD)
    assert states(home).total() == 0  # it was down before the first

    time.sleep(max(0.0, (begins - datetime.now(UTC)).total_seconds()) + DUE * PERIOD)
    with retune_ui(home, **SHORT_WAITS):
        wait_for(lambda: states(home).total() == DUE, PATIENCE)
    ends = [state(home, run) for run in scheduled(home)]
    assert ends[-1][0] == "Rejected", ends
    assert all(message.endswith(" is newer, and runs instead") for _, message in ends[:-1]), ends
    assert states(home)["Superseded"] == DUE - 1, ends
