"""What is left when everything is killed, or interrupted, in the middle of a training."""

import json
import signal
import sqlite3
from contextlib import closing

import psutil
import pytest

from tests.flows.servers import Servers, retune_ui, wait_for
from tests.flows.test_line import sums
from tests.tasks.conftest import make_base

ENDLESS = {
    "backend": "trl", "max_steps": 1_000_000, "batch_size": 2, "gradient_accumulation": 1,
    "optimizer": "adamw_torch", "packing": False, "gradient_checkpointing": "off",
}  # fmt: skip


@pytest.mark.proof
@pytest.mark.timeout(1800)
def test_a_killed_training_frees_its_slot_and_an_interrupted_one_keeps_its_steps(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("RETUNE_ATTEMPTS", "1")  # else it would go on, as test_chaos.py sees
    home = tmp_path / "home"
    make_base(tmp_path / "base")
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, sums(400))))
    recipe = {
        "name": "endless",
        "model": {"base": str(tmp_path / "base"), "load_in_4bit": False, "max_length": 128},
        "dataset": {"source": str(tmp_path / "rows.jsonl")},
        "training": ENDLESS,
        "validation": {},
    }

    def checkpoints() -> list[str]:
        return [path.name for path in home.glob("work/train/*.partial/**/checkpoint-*")]

    def steps() -> int:
        logs = home.glob("work/train/*.partial/training_log.jsonl")
        return sum(log.read_text().count("\n") for log in logs)

    def begin(servers: Servers) -> str:
        """Start a run of the deployment and return its id once it trains."""
        demo = servers.deployment("demo")
        run = servers.api(f"deployments/{demo}/create_flow_run", {"parameters": recipe})["id"]
        before = steps()
        wait_for(lambda: steps() > before + 1 or ended(state(home, run)), 600)
        assert state(home, run) == ("Running", "")
        return run

    with retune_ui(home) as servers:
        killed = begin(servers)
        assert slots(home, "demo") == 1
        taken, cancelled = lost(servers, "PENDING"), lost(servers, "CANCELLING")
        everything = [psutil.Process(servers.process.pid), *servers.children]
        for process in everything:
            process.kill()
        servers.process.wait()
    assert state(home, killed)[0] == "Running"
    assert checkpoints() == []

    with retune_ui(home) as servers:
        assert "Closed a run whose process is gone: endless" in servers.printed
        name, message = state(home, killed)
        assert name == "Crashed"
        assert "Its process is gone" in message
        assert slots(home, "demo") == 0
        assert state(home, taken)[0] == "Crashed"
        assert state(home, cancelled)[0] == "Cancelled"
        interrupted = begin(servers)  # the deployment takes one at a time and cancels others
        servers.process.send_signal(signal.SIGINT)
        assert servers.process.wait(300) == 0
        assert "Waiting for the run at work" in servers.process.stdout.read()
    assert state(home, interrupted)[0] == "Crashed"
    assert slots(home, "demo") == 0
    assert len(checkpoints()) == 1


def lost(servers: Servers, kind: str) -> str:
    """Make a run that a worker took, or a person cancelled, and that no process knows of."""
    deployment = servers.deployment("llama31-8b-finetome-10k")
    run = servers.api(f"deployments/{deployment}/create_flow_run", {})["id"]
    servers.api(f"flow_runs/{run}/set_state", {"state": {"type": kind}, "force": True})
    return run


def ended(seen: tuple[str, str]) -> bool:
    return seen[0] in ("Completed", "Failed", "Crashed", "Cancelled")


def state(home, run: str) -> tuple[str, str]:
    """Return the name and message of a run's state, from Prefect's database."""
    with closing(sqlite3.connect(home / "prefect" / "prefect.db")) as database:
        (found,) = database.execute(
            "select r.state_name, coalesce(s.message, '') from flow_run r "
            "join flow_run_state s on r.state_id = s.id where r.id = ?",
            [run],
        ).fetchall()
    return found


def slots(home, deployment: str) -> int:
    """Return how many runs of a deployment count as being at work, from Prefect's database."""
    with closing(sqlite3.connect(home / "prefect" / "prefect.db")) as database:
        ((found,),) = database.execute(
            "select l.active_slots from concurrency_limit_v2 l "
            "join deployment d on d.concurrency_limit_id = l.id where d.name = ?",
            [deployment],
        ).fetchall()
    return found
