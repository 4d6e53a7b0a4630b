"""The queue of a deployment: of the runs that nobody started by hand and that are due, the newest runs.

Prefect's own limit keeps two runs of a deployment from working at once and lets others wait. After a
machine was down, or behind a long training, several wait that would all do the same: what is read is
what is there when a run begins. One that waited for an approval counts as a person's: it reads nothing.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from prefect import get_client, runtime
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.states import Cancelled

from flows.approval import WAITS_UNTIL
from flows.provenance import cause_of

if TYPE_CHECKING:
    from prefect import State
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

WAITING = [StateType.SCHEDULED, StateType.PENDING]
MOST = 200  # runs that the server gives at a time; a schedule has at most a hundred ahead
SUPERSEDED = "Superseded"  # the state of a run that waited
CHOSEN = "retune.chosen"  # label of a run that another has given way to: by its name


class Waiter(NamedTuple):
    """A run of a deployment that nobody started by hand, and when it was due."""

    id: UUID
    name: str
    due: datetime


def superseded_by() -> str | None:
    """Return the name of the run that this one leaves the work to, None if it is the newest that is due.

    Those that wait between the two are cancelled. A run that a person started gives way to none, and
    ends none: it has parameters of its own. One that another gave way to works, though a newer one may
    be due by now: where runs are due more often than they can begin, none would ever work.
    """
    run_id, deployment = runtime.flow_run.id, runtime.deployment.id
    if not run_id or not deployment:
        return None
    with get_client(sync_client=True) as client:
        this = client.read_flow_run(UUID(str(run_id)))
        if not cause_of(this) or this.expected_start_time is None or WAITS_UNTIL in this.labels:
            return None
        kept = keep_newest(client, UUID(str(deployment)))
        if CHOSEN in this.labels or kept is None or kept.due <= this.expected_start_time:
            return None
        client.update_flow_run_labels(kept.id, {CHOSEN: this.name})
        return kept.name


def keep_newest(client: "SyncPrefectClient", deployment: UUID) -> Waiter | None:
    """Cancel what waits behind the newest run that is due, and return that; None if none waits."""
    waiting = due(client, deployment)
    for run in waiting[:-1]:
        state: State = Cancelled(
            name=SUPERSEDED, message=f"{waiting[-1].name} is newer, and runs instead"
        )
        client.set_flow_run_state(run.id, state, force=True)
    return waiting[-1] if waiting else None


def due(client: "SyncPrefectClient", deployment: UUID) -> list[Waiter]:
    """Return the runs of a deployment that nobody started by hand, that are due and have not begun, the
    newest last."""
    runs = client.read_flow_runs(
        flow_run_filter=FlowRunFilter(
            deployment_id=FlowRunFilterDeploymentId(any_=[deployment]),
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=WAITING)),
        ),
        sort=FlowRunSort.EXPECTED_START_TIME_ASC,
        limit=MOST,
    )
    return list(_due(runs))


def _due(runs: "Sequence[FlowRun]") -> list[Waiter]:
    now = datetime.now(UTC)
    return [
        Waiter(run.id, run.name, run.expected_start_time)
        for run in runs
        if run.expected_start_time
        and run.expected_start_time <= now
        and cause_of(run)
        and WAITS_UNTIL not in run.labels
    ]
