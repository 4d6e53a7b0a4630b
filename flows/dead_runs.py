"""Flow runs whose process is gone (`kill -9`, a power cut): Prefect itself never learns of that.

Such a run stays Running for ever and holds its deployment's slot, and cancelling it waits for
a worker that is not there. Each run therefore says in a label which process it is. `retune operate`
closes those of this machine that no longer run, now and then, and `retune run` at its start.
"""

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import psutil
from prefect import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterEndTime,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.settings import get_current_settings
from prefect.states import Cancelled, Crashed

from retune.access import ui_server
from retune.processes import is_gone, this_process

if TYPE_CHECKING:
    from uuid import UUID

    from prefect import Flow, State
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

LABEL = "retune.process"
OPEN = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
TAKEN = 300  # seconds that a worker has to start the process of a run that it took
PAGE = 200  # runs that the server gives at a time
GONE = (
    "Its process is gone (killed, or the machine went down) and did not say so. Run it again: "
    "finished stages are reused, and training goes on from its last checkpoint."
)


def sign(flow: "Flow[Any, Any]", flow_run: "FlowRun", state: "State[Any]") -> None:
    """Note in a run, as it begins, which process it is. A hook of the flow."""
    with get_client(sync_client=True) as client:
        client.update_flow_run_labels(flow_run.id, {LABEL: this_process()})


def age(run: "FlowRun") -> float:
    """Return for how many seconds a run is in its state, by the clock."""
    return (datetime.now(UTC) - run.state.timestamp).total_seconds() if run.state else 0


def close_dead_runs(patience: float = 0, age: "Callable[[FlowRun], float]" = age) -> list[str]:
    """Close the runs of this machine whose process is gone, and return their names.

    They become Crashed, or Cancelled if that was asked for, their task runs too; their slots are free
    again. While a worker works, one that it has just taken has no process yet: `patience` is for how
    many seconds of `age`, which tells for how long a run is in its state.
    """
    with get_client(sync_client=True) as client:
        runs, started = runs_in(client, OPEN), set(_started_runs())  # in this order: none is missed
        dead = [run for run in runs if _is_dead(run, started, lambda run: age(run) >= patience)]
        for run in dead:
            cancelled = run.state_type == StateType.CANCELLING
            state: State = Cancelled(message=GONE) if cancelled else Crashed(message=GONE)
            client.set_flow_run_state(run.id, state)
            _close_tasks(client, run)
        return [run.name for run in dead]


def states_of(client: "SyncPrefectClient", flow_run: "UUID") -> "list[State]":
    """Return all states that a flow run has had, the oldest first."""
    return sorted(client.read_flow_run_states(flow_run), key=lambda state: state.timestamp)


def runs_in(
    client: "SyncPrefectClient", states: Iterable[StateType], ended: datetime | None = None
) -> "list[FlowRun]":
    """Return all flow runs in these states; only those that ended after `ended`, if that is given."""
    kinds = FlowRunFilterStateType(any_=list(states))
    run_filter = FlowRunFilter(
        state=FlowRunFilterState(type=kinds),
        end_time=FlowRunFilterEndTime(after_=ended) if ended else None,
    )
    runs: list[FlowRun] = []
    while page := client.read_flow_runs(flow_run_filter=run_filter, limit=PAGE, offset=len(runs)):
        runs += page
    return runs


def _close_tasks(client: "SyncPrefectClient", run: "FlowRun") -> None:
    still = TaskRunFilterState(type=TaskRunFilterStateType(any_=OPEN))
    tasks = client.read_task_runs(
        flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run.id])),
        task_run_filter=TaskRunFilter(state=still),
    )
    for task in tasks:
        client.set_task_run_state(task.id, Crashed(message=GONE), force=True)


def _is_dead(run: "FlowRun", started: set[str], is_old: "Callable[[FlowRun], bool]") -> bool:
    """Tell whether nobody works at the run any more; False where that cannot be known.

    `started` are the ids of the runs that processes of this machine were started for; `is_old` tells
    whether a worker had its time to start one.
    """
    # A worker hands a run's id to its process.
    if str(run.id) in started:
        return False
    # Of a run that begins again the label is the one of its last attempt.
    if LABEL in run.labels and (run.state_type == StateType.RUNNING or not run.deployment_id):
        return is_gone(str(run.labels[LABEL]))
    # It has not begun, or died before it could sign.
    return bool(run.deployment_id) and _one_machine() and is_old(run)


def _one_machine() -> bool:
    """Tell whether only this machine's runs are in the database: it is a file, or its server is that of
    `retune ui`, which no worker elsewhere can reach."""
    url = get_current_settings().server.database.connection_url
    return not url or url.get_secret_value().startswith("sqlite") or ui_server() is not None


def _started_runs() -> Iterator[str]:
    for process in psutil.process_iter():
        try:
            yield process.environ()["PREFECT__FLOW_RUN_ID"]
        except (psutil.Error, KeyError):
            continue
