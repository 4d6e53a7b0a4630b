"""Flow runs whose process is gone (`kill -9`, a power cut): Prefect itself never learns of that.

Such a run stays Running for ever and holds its deployment's slot, and cancelling it waits for
a worker that is not there. Each run therefore says in a label which process it is, and `retune ui`
closes at its start those of this machine that no longer run.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import psutil
from prefect import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.settings import get_current_settings
from prefect.states import Cancelled, Crashed

from retune.processes import is_gone, this_process

if TYPE_CHECKING:
    from prefect import Flow, State
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

LABEL = "retune.process"
OPEN = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
PAGE = 200  # runs that the server gives at a time
GONE = (
    "Its process is gone (killed, or the machine went down) and did not say so. Run it again: "
    "finished stages are reused, and training goes on from its last checkpoint."
)


def sign(flow: "Flow[Any, Any]", flow_run: "FlowRun", state: "State[Any]") -> None:
    """Note in a run, as it begins, which process it is. A hook of the flow."""
    with get_client(sync_client=True) as client:
        client.update_flow_run_labels(flow_run.id, {LABEL: this_process()})


def close_dead_runs() -> list[str]:
    """Close the runs of this machine whose process is gone, and return their names.

    They become Crashed, or Cancelled if that was asked for; their slots are free again.
    """
    with get_client(sync_client=True) as client:
        runs, started = _open_runs(client), set(_started_runs())  # in this order: none is missed
        dead = [run for run in runs if _is_dead(run, started)]
        for run in dead:
            cancelled = run.state_type == StateType.CANCELLING
            state: State = Cancelled(message=GONE) if cancelled else Crashed(message=GONE)
            client.set_flow_run_state(run.id, state)
        return [run.name for run in dead]


def _open_runs(client: "SyncPrefectClient") -> "list[FlowRun]":
    run_filter = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=OPEN)))
    runs: list[FlowRun] = []
    while page := client.read_flow_runs(flow_run_filter=run_filter, limit=PAGE, offset=len(runs)):
        runs += page
    return runs


def _is_dead(run: "FlowRun", started: set[str]) -> bool:
    """Tell whether nobody works at the run any more; False where that cannot be known.

    `started` are the ids of the runs that processes of this machine were started for.
    """
    if LABEL in run.labels:
        return is_gone(str(run.labels[LABEL]))
    # It has not begun, or died before it could sign. A worker hands a run's id to its process.
    return bool(run.deployment_id) and _one_machine() and str(run.id) not in started


def _one_machine() -> bool:
    """Tell whether only this machine's runs are in the database: it is a file."""
    url = get_current_settings().server.database.connection_url
    return not url or url.get_secret_value().startswith("sqlite")


def _started_runs() -> Iterator[str]:
    for process in psutil.process_iter():
        try:
            yield process.environ()["PREFECT__FLOW_RUN_ID"]
        except (psutil.Error, KeyError):
            continue
