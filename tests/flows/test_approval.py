"""A run that waits for a person, on a real Prefect server: it holds no process, and goes on later."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import psutil
import pytest

from retune import registry, tracking
from retune.registry.approvals import request_of
from retune.retention import WAITING
from tests.candidates import served
from tests.databases import furnish, working_in
from tests.flows.servers import (
    BROWSER,
    RETUNE,
    ROOT,
    ask,
    environment,
    retune_ui,
    signed_in,
    wait_for,
)
from tests.flows.waiting_flow import RECIPE

ENDS = ("Promoted", "Failed", "Crashed", "Rejected")
SOON = 15 / 3600  # hours
pytestmark = [pytest.mark.proof, pytest.mark.timeout(900)]  # three servers start


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    with retune_ui(furnish(tmp_path_factory.mktemp("home"))) as running:
        yield running


@pytest.fixture(scope="module")
def deployment(servers):
    """The id of a deployment whose runs a process of ours starts."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.flows.waiting_flow"],
        cwd=ROOT,
        env=environment(servers.home) | {"PREFECT_RUNNER_POLL_FREQUENCY": "1"},
        start_new_session=True,
    )
    named = {"deployments": {"name": {"any_": ["waiting"]}}}
    (found,) = wait_for(lambda: servers.api("deployments/filter", named))
    yield found["id"]
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(timeout=60)


@pytest.fixture
def home(servers, monkeypatch):
    """This process looks into the store of the runs."""
    with working_in(monkeypatch, servers.home):
        yield servers.home


def state_of(servers, run_id: str) -> str:
    (run,) = servers.api("flow_runs/filter", {"flow_runs": {"id": {"any_": [run_id]}}})
    return run["state"]["name"]


def end_of(servers, run_id: str) -> str:
    """Return the name of the state in which a run ends."""
    return wait_for(lambda: (name := state_of(servers, run_id)) in ENDS and name)


def processes_of(run_id: str) -> list[int]:
    """Return the processes that were started for a flow run."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("PREFECT__FLOW_RUN_ID") == run_id:
                found.append(process.pid)
    return found


def test_what_nobody_answers_in_time_is_rejected(servers, deployment, home):
    """Prefect itself would call it Failed: "The flow was paused and never resumed."."""
    late = {"key": "late", "hours": SOON}
    wanted = {"state": {"type": "SCHEDULED"}, "parameters": late}
    run = servers.api(f"deployments/{deployment}/create_flow_run", wanted)
    assert end_of(servers, run["id"]) == "Rejected"
    url = f"{servers.prefect}/api/flow_run_states/?flow_run_id={run['id']}"
    states = json.loads(ask(url, sign_in=servers.sign_in).body)
    passed = [state["name"] for state in sorted(states, key=lambda state: state["timestamp"])]
    assert (
        passed.index("Suspended")
        < passed.index(WAITING)
        < passed.index("Resuming")
        < passed.index("Rejected")
    )
    assert "Failed" not in passed
    (message,) = (state["message"] for state in states if state["name"] == "Rejected")
    assert "the approval expired: nobody answered until" in message
    version = registry.versions("sums")[-1]
    assert version.tags["retune.decision"].startswith("Rejected: ")
    assert version.aliases == ("challenger",)


def test_a_run_waits_without_a_process_and_goes_on_when_it_is_approved(servers, deployment, home):
    run = servers.api(f"deployments/{deployment}/create_flow_run", {"state": {"type": "SCHEDULED"}})
    wait_for(lambda: state_of(servers, run["id"]) == WAITING)
    wait_for(lambda: not processes_of(run["id"]))
    (waiting,) = servers.api("flow_runs/filter", {"flow_runs": {"id": {"any_": [run["id"]]}}})
    assert waiting["state"]["message"].startswith("Waits for approval until ")
    assert "menu ⋮ → Resume" in waiting["state"]["message"]
    version = registry.versions("sums")[-1]
    stored = tracking.client().get_run(version.run_id)
    assert stored.info.status == "FINISHED"
    assert stored.data.tags["retune.decision"].startswith("AwaitingApproval")
    assert registry.serving("sums") is None

    started = time.monotonic()
    done = subprocess.run(
        [RETUNE, "approve", "sums@challenger", "--reason", "reads well"],
        cwd=home,
        env=environment(home),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Its flow run goes on." in done.stdout
    assert time.monotonic() - started < 60
    assert end_of(servers, run["id"]) == "Promoted"
    approved, promoted = registry.history("sums")
    assert (approved.kind, promoted.kind) == ("approve", "promote")
    assert (promoted.reason, promoted.by) == ("reads well", approved.by)
    # It went on in its MLflow run, with the dataset of then: by now there is another.
    assert tracking.client().get_run(version.run_id).data.tags["retune.decision"].startswith("Prom")
    assert registry.versions("sums")[-1].number == version.number
    keys = servers.api("artifacts/filter", {"artifacts": {"key": {"any_": ["in-service-sums"]}}})
    assert f"**{version}** serves" in keys[0]["data"]


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium on this machine")
def test_a_person_rejects_on_prefects_page(servers, deployment, home, tmp_path):
    wanted = {"state": {"type": "SCHEDULED"}, "parameters": {"key": "two"}}
    run = servers.api(f"deployments/{deployment}/create_flow_run", wanted)
    wait_for(lambda: state_of(servers, run["id"]) == WAITING)
    with signed_in(servers, 1200, 1000, seconds=60) as page:
        page.goto(f"{servers.prefect}/v2/runs/flow-run/{run['id']}")
        page.get_by_text("or `retune approve").wait_for()  # in the log: how to go on
        page.get_by_role("button", name="Open menu").click()
        page.get_by_role("menuitem", name="Resume").click()
        form = page.get_by_role("dialog")
        form.get_by_text("the evidence", exact=True).wait_for()
        page.screenshot(path=os.environ.get("RETUNE_SCREENSHOT") or tmp_path / "form.png")
        form.get_by_text("Select", exact=True).click()
        page.get_by_role("option", name="reject").click()
        name, reason = form.locator("textarea").all()
        name.fill("Ann")
        reason.fill("too long")
        name.fill(" ")  # nobody decides without a name
        form.get_by_role("button", name="Resume").click()
        page.wait_for_timeout(3000)
        assert state_of(servers, run["id"]) == WAITING
        name.fill("Ann")
        form.get_by_role("button", name="Resume").click()
        assert end_of(servers, run["id"]) == "Rejected"
    entry = registry.history("sums")[-1]
    assert (entry.kind, entry.by, entry.reason) == ("reject", "Ann", "too long")


def test_an_answer_in_time_counts_though_its_run_starts_later(servers, deployment, home):
    """The machine may be off, or at work, when the deadline comes."""
    late = {"key": "late start", "hours": 4 * SOON}
    wanted = {"state": {"type": "SCHEDULED"}, "parameters": late}
    run = servers.api(f"deployments/{deployment}/create_flow_run", wanted)
    wait_for(lambda: state_of(servers, run["id"]) == WAITING)
    version = registry.versions("sums")[-1]
    request = request_of(version)
    (starter,) = (
        child
        for child in psutil.Process().children()
        if "tests.flows.waiting_flow" in child.cmdline()
    )
    starter.suspend()
    try:
        filled = {"run_input": {"verb": "approve", "by": "Ann", "reason": "in time"}}
        servers.api(f"flow_runs/{run['id']}/resume", filled)
        assert not request.has_expired()
        wait_for(request.has_expired)
    finally:
        starter.resume()
    assert end_of(servers, run["id"]) == "Promoted"
    approved, promoted = registry.history("sums")[-2:]
    assert (approved.kind, approved.by, approved.reason) == ("approve", "Ann", "in time")
    assert (promoted.kind, promoted.serving) == ("promote", version.number)


def test_a_run_that_is_asked_again_leaves_none_that_waits(servers, deployment, home):
    """Against another champion it is another MLflow run; the one before would wait for ever."""
    wanted = {"state": {"type": "SCHEDULED"}, "parameters": {"key": "overtaken"}}
    run = servers.api(f"deployments/{deployment}/create_flow_run", wanted)
    wait_for(lambda: state_of(servers, run["id"]) == WAITING)
    version = registry.versions("sums")[-1]
    served(RECIPE, "meanwhile")
    filled = {"run_input": {"verb": "approve", "by": "Ann", "reason": "of before"}}
    servers.api(f"flow_runs/{run['id']}/resume", filled)
    wait_for(lambda: "another version serves" in decision_of(version.run_id))
    assert decision_of(version.run_id).startswith("Superseded")


def decision_of(run_id: str) -> str:
    return tracking.client().get_run(run_id).data.tags["retune.decision"]
