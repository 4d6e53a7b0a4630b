"""What starts runs, and which of those that wait runs, on a real Prefect server without a worker."""

import json
import subprocess
import sys
import textwrap

import pytest

from expectations.new_rows import NewRows, too_few
from flows.triggers import changes
from retune.recipe import Recipe, Schedule
from tests.databases import furnish
from tests.flows.servers import ROOT, environment

SCRIPT = """
import json, os, sqlite3, sys, time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from flows import local, temporary_server
local.configure()
server = temporary_server.start()
from flows import approval, expiry, queue, replaced, triggers, watchdog
from tasks.stage import show
from retune.recipe import Recipe
from retune.tracking import DECISION, start_run
from prefect import flow, get_client
from prefect.artifacts import create_progress_artifact
from prefect.states import (
    AwaitingRetry, Cancelled, Completed, Crashed, Pending, Running, Scheduled, Suspended)
server.use()

def recipe(**schedule):
    return Recipe.parse({"name": "sums", "model": {"base": "b"}, "dataset": {"source": "d.jsonl"},
                         "schedule": {"triggers": ["dataset"]} | schedule})

@flow(name="retune")
def line(): ...

seen = {}
with get_client(sync_client=True) as client:
    deployment = client.create_deployment(client.create_flow(line), "sums")
    now = datetime.now(UTC)

    def run(name, hours, tags=("trigger",)):
        state = Scheduled(scheduled_time=now + timedelta(hours=hours))
        made = client.create_flow_run_from_deployment(deployment, state=state, name=name, tags=tags)
        return made.id

    ids = {name: run(name, hours) for name, hours in
           (("oldest", -30), ("older", -20), ("newest", -1), ("later", 20))}
    ids["by hand"] = run("by hand", -40, ())
    ids["answered"] = run("answered", -25)
    client.update_flow_run_labels(ids["answered"], {approval.WAITS_UNTIL: now.isoformat()})
    kept = queue.keep_newest(client, deployment)
    seen["kept"] = kept.name
    seen["states"] = {name: client.read_flow_run(id).state_name for name, id in ids.items()}
    client.delete_flow_run(ids["answered"])

    def begins(id):
        os.environ["PREFECT__RUNTIME__FLOW_RUN__ID"] = str(id)
        os.environ["PREFECT__RUNTIME__DEPLOYMENT__ID"] = str(deployment)
        return queue.superseded_by()

    seen["gives way"] = begins(ids["oldest"])
    client.set_flow_run_state(kept.id, Running(), force=True)
    newer = run("newer", -0.5)  # due when the one that was chosen begins
    seen["chosen"] = [begins(kept.id), begins(kept.id), begins(ids["by hand"])]
    client.delete_flow_run(newer)
    client.set_flow_run_state(kept.id, Scheduled(scheduled_time=kept.due), force=True)
    for name in [one for one in os.environ if one.startswith("PREFECT__RUNTIME__")]:
        del os.environ[name]

    def ended(name, label, *states):
        made = run(name, 20)
        client.update_flow_run_labels(made, {"retune.kept": label})
        for state in states:
            client.set_flow_run_state(made, state, force=True)
        return made

    words, by_worker = "Cancelled: step 8 is kept", Cancelled(message=watchdog.BY_WORKER)
    watchdog.SETTLED = 0
    crashes = Running(), Crashed(message="killed")
    interrupted = {"before": ended("before", "", Running(), Completed()),
                   "followed": ended("followed", "", *crashes)}
    time.sleep(1.5)
    interrupted["last"] = ended("last", "", *crashes)
    # The clock was set back after the first one.
    with sqlite3.connect(os.environ["RETUNE_HOME"] + "/prefect/prefect.db", timeout=60) as database:
        changed = database.execute("update flow_run set start_time = datetime(start_time, '+2 hours') "
                                   "where replace(id, '-', '') = ?", [interrupted["before"].hex])
        assert changed.rowcount == 1
    watchdog.Watchdog().look()
    seen["interrupted"] = {
        name: client.read_flow_run(id).state_name for name, id in interrupted.items()}
    for made in interrupted.values():
        client.delete_flow_run(made)
    watched = {
        "killed": ended("killed", "", Crashed(message="killed")),  # "later" is due after it
        "cancelled": ended("cancelled", words, Cancelled(message=words), by_worker),
        "retried": ended("retried", words, Cancelled(message=words), AwaitingRetry(), by_worker),
    }
    taken, waits = run("taken", 0), run("waits", 0)
    client.set_flow_run_state(taken, Pending(), force=True)
    with sqlite3.connect(os.environ["RETUNE_HOME"] + "/prefect/prefect.db", timeout=60) as database:
        database.execute("update flow_run_state set timestamp = datetime(timestamp, '-2 hours') "
                         "where type = 'PENDING' and replace(flow_run_id, '-', '') = ?", [taken.hex])
        assert database.total_changes
    client.update_flow_run_labels(waits, {watchdog.RESUMED: 1})
    client.set_flow_run_state(waits, AwaitingRetry(scheduled_time=now + timedelta(hours=2)), force=True)
    watched |= {"taken": taken, "waits": waits}
    watchdog.Watchdog().look()
    waits_until = client.read_flow_run(waits).state.state_details.scheduled_time
    seen["waits for"] = (waits_until - now).total_seconds()
    seen["watched"] = {
        name: [state.name, state.message or ""]
        for name, state in ((name, client.read_flow_run(id).state) for name, id in watched.items())}
    for made in watched.values():
        client.delete_flow_run(made)

    def suspended(name, hours, key=approval.KEY + "sums-1-base"):
        waiting = run(name, 20)
        until = now + timedelta(hours=hours)
        client.update_flow_run_labels(waiting, {approval.WAITS_UNTIL: until.isoformat()})
        client.set_flow_run_state(waiting, Suspended(timeout_seconds=99_999, pause_key=key), force=True)
        return waiting

    asked = {"expired": suspended("expired", -1), "open": suspended("open", 1),
             "by a person": suspended("by a person", -1, key="0")}
    seen["let go on"] = expiry.let_go_on(client)
    seen["asked"] = {name: client.read_flow_run(id).state_name for name, id in asked.items()}
    seen["let go on again"] = expiry.let_go_on(client)
    for waiting in asked.values():
        client.delete_flow_run(waiting)
    @flow(name="shows")
    def shows():
        for words in ("before it waited", "after it"):
            show(replaced.replace, key="page", markdown=words)
            show(replaced.replace, 50.0, kind=create_progress_artifact, key="bar")

    shows()
    seen["shown"] = sorted(
        [artifact.key, artifact.data]
        for artifact in client.read_artifacts() if artifact.key in ("page", "bar"))
    for made in client.read_flow_runs():
        if made.deployment_id is None:
            client.delete_flow_run(made.id)
    Path("d.jsonl").write_text("{}")
    look = lambda **schedule: tuple(triggers.watch({"sums": recipe(**schedule)})[0][1:])
    seen["first"] = look()
    with start_run(recipe(), "earlier", {"retune.pin.dataset": "sha256:old"}):
        pass
    seen["waits"] = look()
    client.set_flow_run_state(kept.id, Scheduled(scheduled_time=now + timedelta(hours=9)), force=True)
    client.delete_flow_run(kept.id)
    seen["cooldown"] = look()
    for name in ("oldest", "older", "later"):
        client.delete_flow_run(ids[name])
    seen["started"] = look(cooldown_hours=0)
    seen["again"] = look(cooldown_hours=0)
    seen["reported"] = tuple(triggers.trigger("sums", recipe(), "prices changed", force=True))[1:]
    runs = client.read_flow_runs()
    seen["runs"] = [(run.tags, run.parameters.get("schedule", {}).get("force")) for run in runs
                    if run.name not in ids]
    try:
        triggers.trigger("other", recipe(), "x")
    except triggers.TriggerError as error:
        seen["unknown"] = str(error)
print(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory) -> dict:
    home = furnish(tmp_path_factory.mktemp("triggers") / "home")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT)],
        cwd=home.parent,
        env=environment(home) | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow  # a process with a server of its own
def test_of_the_runs_that_wait_the_newest_runs(seen):
    assert seen["kept"] == "newest"
    assert seen["states"] == {
        **{"oldest": "Superseded", "older": "Superseded"},
        **{"newest": "Scheduled", "later": "Scheduled", "by hand": "Scheduled"},
        "answered": "Scheduled",  # a person has waited for this one
    }


def test_a_run_that_another_gave_way_to_works_though_a_newer_one_is_due(seen):
    assert seen["gives way"] == "newest"
    assert seen["chosen"] == [None, None, None]


def test_a_run_that_lost_its_process_goes_on_though_its_schedule_has_others_ahead(seen):
    name, message = seen["watched"]["killed"]
    assert name == "AwaitingRetry"
    assert message.startswith("Attempt 2 of 3")


def test_a_worker_has_not_the_last_word_on_a_cancelled_run(seen):
    """Its words come seconds after the run's own, when a person may have retried it."""
    assert seen["watched"]["cancelled"] == ["Cancelled", "Cancelled: step 8 is kept"]
    assert seen["watched"]["retried"][0] == "AwaitingRetry"


def test_a_clock_that_is_set_ends_no_run_that_was_just_taken_and_lets_none_wait(seen):
    """What was written two hours ago, by the clock, was perhaps written a second ago."""
    assert seen["watched"]["taken"][0] == "Pending"
    assert seen["watched"]["waits"][0] == "AwaitingRetry"
    assert seen["waits for"] < 600


def test_an_interrupted_run_goes_on_unless_a_later_one_has_begun(seen):
    """One that began in the future did so before the clock was set back: it is an earlier one."""
    assert seen["interrupted"] == {
        "before": "Completed",
        "followed": "Crashed",
        "last": "AwaitingRetry",
    }


def test_a_run_that_nobody_approved_in_time_goes_on_and_one_that_waits_does_not(seen):
    assert seen["let go on"] == ["Nobody approved in time, and the run ends: expired"]
    assert seen["asked"] == {
        "expired": "Resuming",
        **{"open": "Suspended", "by a person": "Suspended"},
    }
    assert seen["let go on again"] == []


def test_what_a_run_shows_again_takes_the_place_of_what_it_showed(seen):
    assert seen["shown"] == [["bar", 50], ["page", "after it"]]


def test_a_change_starts_one_run_after_the_cooldown(seen):
    assert seen["first"][0] == "no run yet"
    outcome, reason = seen["waits"]
    assert outcome == "waits already"
    assert reason.startswith("newest will see it: dataset: sha256:")
    assert reason.endswith("instead of sha256:old")
    assert seen["cooldown"][0] == "cooldown"
    assert seen["started"][0] == "started"
    assert seen["again"][0] == "waits already"


def test_another_program_starts_a_run_and_may_force_it(seen):
    assert seen["reported"][0] == "started"
    assert seen["reported"][1].endswith(": prices changed")
    assert sorted(seen["runs"], key=str) == [[["trigger"], None], [["trigger"], True]]
    assert "no deployment retune/other; start `retune ui`" in seen["unknown"]


def watching(*causes: str, **sections) -> Recipe:
    values = {"name": "sums", "model": {"base": "b"}, "dataset": {"source": "d"}}
    return Recipe.parse(values | {"schedule": {"triggers": causes}} | sections)


def test_only_what_a_recipe_watches_and_that_is_another_is_a_cause(hub, tmp_path):
    dataset = hub.add_dataset("you/rows", {"rows.jsonl": b"{}"})
    model = hub.add_model("you/base", {"config.json": b"{}"})
    given = {"model": {"base": "you/base"}, "dataset": {"source": "you/rows"}}
    tags = {"retune.pin.dataset": dataset, "retune.pin.model": model}
    both = watching("dataset", "model", **given)
    assert list(changes(both, tags)) == []
    newer = hub.model("you/base").commit({"config.json": b"{ }"})
    (cause,) = changes(both, tags)
    assert cause == f"model: {newer[:19]} instead of {model[:19]}"
    assert list(changes(watching("dataset", **given), tags)) == []
    assert list(changes(watching(**given), {})) == []
    incidents = tmp_path / "incidents.jsonl"
    case = {
        "messages": [{"role": "user", "content": "Hello?"}],
        "grade": {"type": "not_contains", "text": "x"},
    }
    incidents.write_text(json.dumps(case))
    of_cases = watching("suites", **given, evaluation={"incidents": str(incidents)})
    (new,) = changes(of_cases, tags)
    assert new.startswith("suites: sha256:")
    assert new.endswith("instead of none")


def test_too_few_new_rows_are_not_worth_a_training():
    seen = {"rows": 540.0, "flaws/near_duplicate": 140.0}
    reason = too_few(NewRows(0, 400), seen, "last week", Schedule(min_new_rows=100))
    assert reason == (
        "not worth a training: 0 accepted rows are new since last week, which had 400; 100 wanted "
        "(schedule.min_new_rows) (of 540 rows read, near duplicates: 140)"
    )
    share = too_few(NewRows(3, 400), {"rows": 403.0}, "x", Schedule(min_new_share=0.01))
    assert share is not None
    assert "1.00% of them wanted, 0.75% seen (schedule.min_new_share)" in share
    for enough in (Schedule(), Schedule(min_new_rows=3), Schedule(min_new_share=0.0075)):
        assert too_few(NewRows(3, 400), {"rows": 403.0}, "x", enough) is None
    assert too_few(NewRows(3, 0), {"rows": 3.0}, "x", Schedule(min_new_share=0.5)) is None
