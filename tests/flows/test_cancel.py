"""A person cancels a run on Prefect's page: its child and its slot are gone at once, its steps stay."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from flows.watchdog import BY_WORKER
from tests.databases import furnish
from tests.flows.chaos import left_open, of_run, rows, stage_processes
from tests.flows.servers import Servers, retune_ui, wait_for
from tests.flows.test_chaos import NOTHING
from tests.flows.test_dead_runs import ENDLESS, ended, slots, state
from tests.flows.test_line import sums
from tests.tasks.conftest import make_base

LOOK = 0.1  # seconds between two looks
LATEST = 120  # seconds on a loaded machine
END = "child", "slot", "words", "process"
KEPT = "Cancelled: the checkpoint of step"


def recipe(folder: Path) -> dict[str, Any]:
    make_base(folder / "base")
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, sums(400))))
    return {
        "name": "cancelled",
        "model": {"base": str(folder / "base"), "load_in_4bit": False, "max_length": 128},
        "dataset": {"source": str(folder / "rows.jsonl")},
        "training": ENDLESS,
        "validation": {},
    }


def logged(home: Path) -> list[int]:
    """Return the steps in the log of the training, once there is one."""
    logs = list(home.glob("work/train/*.partial/training_log.jsonl"))
    text = logs[0].read_text() if logs else ""
    return [
        json.loads(line)["step"] for line in text.splitlines(keepends=True) if line.endswith("\n")
    ]


def steps(home: Path) -> int:
    return max(logged(home), default=0)


def checkpoints(home: Path) -> list[str]:
    return [path.name for path in home.glob("work/train/*.partial/**/checkpoint-*")]


def begin(servers: Servers, parameters: dict[str, Any]) -> str:
    """Start a run of the deployment and return its id once it trains."""
    demo = servers.deployment("demo")
    path = f"deployments/{demo}/create_flow_run"
    run = servers.api(path, {"parameters": parameters, "state": {"type": "SCHEDULED"}})["id"]

    def trains() -> bool:
        assert not ended(state(servers.home, run))
        return steps(servers.home) > 1

    wait_for(trains, 600)
    return run


def cancelled(servers: Servers, run: str) -> dict[str, float]:
    """Cancel as Prefect's page does; return after how many seconds each of END was seen."""
    started = stage_processes(servers.home, run)
    children = [one for one in started if one.is_running() and one.name() == "retune-train"]
    assert children
    body = {"state": {"type": "CANCELLING", "name": "Cancelling"}, "force": True}
    servers.api(f"flow_runs/{run}/set_state", body)
    begun, seen = time.monotonic(), dict[str, float]()

    def holds(what: str) -> bool:
        if what == "child":
            return not any(one.is_running() for one in children)
        if what == "slot":
            return slots(servers.home, "demo") == 0
        if what == "words":
            return state(servers.home, run)[1].startswith(KEPT)
        return not of_run(servers.home, run)

    while len(seen) < len(END):
        now = time.monotonic() - begun
        assert now < LATEST, (seen, state(servers.home, run))
        seen |= {what: now for what in END if what not in seen and holds(what)}
        time.sleep(LOOK)
    print("; ".join(f"{what} after {seconds:.1f} s" for what, seconds in seen.items()))
    return seen


def states(servers: Servers, run: str) -> list[tuple[str, str]]:
    """Return name and message of all states that a run has had, the newest last."""
    query = (
        "select name, coalesce(message, '') from flow_run_state where flow_run_id = ? "
        "order by timestamp"
    )
    return rows(servers.home / "prefect" / "prefect.db", query, run)


@pytest.mark.proof
@pytest.mark.timeout(1800)
def test_a_run_that_is_cancelled_leaves_its_checkpoint_and_goes_on_when_retried(tmp_path):
    home = furnish(tmp_path / "home")
    with retune_ui(home) as servers:
        run = begin(servers, recipe(tmp_path))
        assert slots(home, "demo") == 1
        seen = cancelled(servers, run)
        assert list(seen)[:2] == ["child", "slot"]  # nobody begins beside the child
        # The worker's own words come later, and are put right.
        wait_for(lambda: BY_WORKER in [words for _, words in states(servers, run)], LATEST)
        wait_for(lambda: state(home, run)[1].startswith(KEPT), LATEST)
        (kept,) = checkpoints(home)
        step = int(kept.rpartition("-")[2])
        assert state(home, run) == (
            "Cancelled",
            f"{KEPT} {step:,} is kept; Retry continues from there.",
        )
        assert left_open(home) == NOTHING
        retried = {"type": "SCHEDULED", "name": "AwaitingRetry"}
        servers.api(f"flow_runs/{run}/set_state", {"state": retried, "force": True})
        wait_for(lambda: steps(home) > step, 600)
    assert logged(home) == list(range(1, steps(home) + 1))  # no step twice, none left out
