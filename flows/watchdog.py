"""Looks after the runs of a server: what lost its process goes on, what is stuck is let go.

It runs inside `retune operate`. Nothing here is needed by a run that ends by itself.
"""

import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from httpx import HTTPError
from prefect import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterStartTime,
    FlowRunFilterState,
    FlowRunFilterStateName,
)
from prefect.client.schemas.objects import StateType
from prefect.exceptions import PrefectException
from prefect.states import Cancelled, Crashed, Scheduled

from flows.dead_runs import LABEL, OPEN, TAKEN, close_dead_runs, runs_in, states_of
from flows.endings import KEPT
from flows.expiry import let_go_on
from flows.state_ages import StateAges
from retune.processes import running

if TYPE_CHECKING:
    from prefect import State
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

ATTEMPTS = "RETUNE_ATTEMPTS"  # of a run that is interrupted, in all
DEFAULT_ATTEMPTS = 3
RESUMED = "retune.resumed"  # label of a run: how often it was begun again
GIVEN_UP = "Not begun again"
AGAIN = "AwaitingRetry"  # the state of a run that is to begin once more, as Prefect names it
BY_WORKER = "Flow run was cancelled successfully."  # what Prefect's runner says, when it has ended
NEWS_DAYS = 7  # an interrupted run of an older day is history
# Prefect's worker ends if it gets a run again while it still cleans up after its last attempt.
SETTLED = 20  # seconds that a run is Crashed before it is begun again
ORPHAN = 1  # whose parent is the system's first process: its worker is gone
CANCELLING = 60  # seconds after which a run that its worker does not end is ended here
FINISHING = 150  # further seconds that it has for its checkpoint
SLOT = "deployment:"  # what the name of a deployment's concurrency limit begins with


def attempts() -> int:
    """Return how often a run is tried in all, by the environment."""
    text = os.environ.get(ATTEMPTS, "")
    return max(1, int(text)) if text.isdecimal() else DEFAULT_ATTEMPTS


class Watchdog:
    """Looks once in a while; each look returns sentences on what it did."""

    def __init__(self) -> None:
        # Slots taken of the limits that had more of them than open runs, last time.
        self._overfull: dict[str, int] = {}
        self._told_to_end: set[UUID] = set()
        self._ages = StateAges()

    def look(self, starting: bool = False) -> list[str]:
        """Do what is due; nothing while the server is away. `starting`: no worker is at work yet."""
        self._ages.next_look()
        try:
            news = [
                f"Closed a run whose process is gone: {name}"
                for name in close_dead_runs(0 if starting else TAKEN, self._ages.of)
            ]
            with get_client(sync_client=True) as client:
                news += self._end_cancelled(client)
                news += _put_right(client)
                news += _resume(client, self._ages)
                news += _bring_forward(client)
                news += let_go_on(client)
                news += self._free_slots(client)
        except (HTTPError, PrefectException) as error:
            return [
                f"Prefect does not answer ({type(error).__name__}); its runs are looked at later"
            ]
        return news

    def _end_cancelled(self, client: "SyncPrefectClient") -> list[str]:
        """End the process of a run that is to be cancelled and whose worker is gone."""
        news = []
        for run in runs_in(client, [StateType.CANCELLING]):
            process = running(str(run.labels[LABEL])) if LABEL in run.labels else None
            seconds = self._ages.of(run)
            if not process or (process.ppid() != ORPHAN and seconds < CANCELLING):
                continue
            if run.id not in self._told_to_end:
                self._told_to_end.add(run.id)
                process.terminate()
                news.append(f"Told a cancelled run to end, since no worker did: {run.name}")
            elif seconds > CANCELLING + FINISHING:
                process.kill()
        return news

    def _free_slots(self, client: "SyncPrefectClient") -> list[str]:
        """Free the slots that no run holds: a server was killed between two of its writes."""
        taken: dict[str, int] = {}
        for run in runs_in(client, OPEN):
            name = f"{SLOT}{run.deployment_id}"
            taken[name] = taken.get(name, 0) + 1
        limits = client.read_global_concurrency_limits(limit=200)
        overfull = {
            limit.name: limit.active_slots
            for limit in limits
            if limit.name.startswith(SLOT) and limit.active_slots > taken.get(limit.name, 0)
        }
        # A run that is just beginning has its slot before its state: only what stays so counts.
        stale = [name for name in overfull if self._overfull.get(name) == overfull[name]]
        for name in stale:
            update = GlobalConcurrencyLimitUpdate(active_slots=taken.get(name, 0))
            client.update_global_concurrency_limit(name, update)
        self._overfull = overfull
        return [f"Freed a slot that no run held: {name}" for name in stale]


def since(days: float) -> datetime:
    return datetime.now(UTC) - timedelta(days=days)


def _put_right(client: "SyncPrefectClient") -> list[str]:
    """Let the message of a cancelled run say what is kept; a worker writes other words, seconds later.
    A run that a person has retried in these seconds goes on."""
    news = []
    for run in runs_in(client, [StateType.CANCELLED], since(days=1)):
        kept = str(run.labels.get(KEPT, ""))
        # A label of an earlier attempt says nothing of this one.
        if not kept.startswith("Cancelled") or run.state is None or run.state.message == kept:
            continue
        if run.state.message == BY_WORKER and (again := _retried(client, run)):
            client.set_flow_run_state(run.id, again, force=True)
            news.append(f"{run.name} was retried while its worker still ended it, and goes on")
        else:
            client.set_flow_run_state(run.id, Cancelled(message=kept), force=True)
    return news


def _retried(client: "SyncPrefectClient", run: "FlowRun") -> "State | None":
    """Return the state that a person gave a cancelled run before its worker wrote the last one."""
    states = states_of(client, run.id)
    before = states[-2] if len(states) > 1 else None
    return before if before and before.type == StateType.SCHEDULED else None


def _resume(client: "SyncPrefectClient", ages: StateAges) -> list[str]:
    """Begin interrupted runs again, from what they have finished; say so of each."""
    news = []
    for run in runs_in(client, [StateType.CRASHED], since(days=NEWS_DAYS)):
        message = (run.state and run.state.message) or ""
        if not run.deployment_id or message.startswith(GIVEN_UP) or ages.of(run) < SETTLED:
            continue
        if _is_followed(client, run):
            continue
        tried = int(str(run.labels.get(RESUMED, 0))) + 1
        if tried >= attempts():
            words = f"{GIVEN_UP} after {tried} attempts ({ATTEMPTS}): {message}"
            client.set_flow_run_state(run.id, Crashed(message=words), force=True)
            news.append(f"{run.name} was interrupted {tried} times and is left: {message}")
            continue
        client.update_flow_run_labels(run.id, {RESUMED: tried})
        client.set_flow_run_state(run.id, _again(tried, message))
        news.append(f"{run.name} was interrupted and goes on, attempt {tried + 1} of {attempts()}")
    return news


def _again(tried: int, message: str) -> "State":
    """Return the state of a run that is to begin again, at once or, the next times, a minute later."""
    return Scheduled(
        name=AGAIN,
        scheduled_time=datetime.now(UTC) + timedelta(minutes=tried - 1),
        message=f"Attempt {tried + 1} of {attempts()} ({ATTEMPTS}) continues from what is finished. "
        f"Before: {message}",
    )


def _bring_forward(client: "SyncPrefectClient") -> list[str]:
    """Let runs that were begun again go on for which the clock, which was set back, has them wait."""
    name = FlowRunFilterState(name=FlowRunFilterStateName(any_=[AGAIN]))
    latest = datetime.now(UTC) + timedelta(minutes=attempts())
    news = []
    for run in client.read_flow_runs(flow_run_filter=FlowRunFilter(state=name)):
        due = run.state and run.state.state_details.scheduled_time
        if RESUMED in run.labels and due and due > latest:
            now: State = Scheduled(name=AGAIN, message=run.state and run.state.message)
            client.set_flow_run_state(run.id, now, force=True)
            news.append(f"{run.name} goes on now: the clock was set back since it was to wait")
    return news


def _is_followed(client: "SyncPrefectClient", run: "FlowRun") -> bool:
    """Tell whether a later run of its deployment has begun: then that one counts."""
    if run.start_time is None:
        return False
    # Of one that waits for its time, Prefect compares that time: each schedule has some ahead. One that
    # began at a time still to come did so before the clock was set back, so before this one.
    began = run.start_time + timedelta(seconds=1)
    begun = FlowRunFilterStartTime(after_=began, before_=datetime.now(UTC), is_null_=False)
    later = FlowRunFilter(start_time=begun)
    deployment = DeploymentFilter(id=DeploymentFilterId(any_=[run.deployment_id]))
    newer = client.read_flow_runs(flow_run_filter=later, deployment_filter=deployment, limit=2)
    return any(other.id != run.id for other in newer)
