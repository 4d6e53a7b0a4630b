"""Approvals that nobody gave in time: the candidate is rejected, and whoever looks first says so.

The watchdog of `retune operate` lets the flow run go on, which then meets its expired request and ends
as Rejected (`flows.promotion.settle`). Where none is at work, the next `retune run` or `retune status`
notes it in MLflow, which is also all that there is to do for a run that has ended.
"""

import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from prefect.client.schemas.objects import StateType
from prefect.client.schemas.responses import SetStateStatus
from prefect.states import Scheduled

from expectations.promotion import approval
from flows.approval import KEY, WAITS_UNTIL
from flows.dead_runs import runs_in
from flows.promotion import decided_later
from retune import registry
from retune.registry.approvals import answer_of, request_of
from retune.registry.versions import CHAMPION, PREVIOUS
from retune.retention import waits
from retune.tracking import REJECTED

if TYPE_CHECKING:
    from prefect import State
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

    from retune.registry import RegisteredVersion


def let_go_on(client: "SyncPrefectClient") -> list[str]:
    """Let the flow runs go on that waited for an approval until now; return a sentence on each."""
    runs = [run for run in runs_in(client, [StateType.PAUSED]) if _has_waited(run)]
    told = []
    for run in runs:
        # As Prefect's own Resume does, which would ask for a form that is filled in.
        state: State = Scheduled(name="Resuming", message="The approval expired.")
        if client.set_flow_run_state(run.id, state).status == SetStateStatus.ACCEPT:
            told.append(f"Nobody approved in time, and the run ends: {run.name}")
    return told


def note_expired(name: str) -> "list[RegisteredVersion]":
    """Note of the candidates of the recipe `name` that nobody answered about in time that they are
    rejected, and return these; the next time they are not among them."""
    from mlflow.exceptions import MlflowException

    found = [version for version in registry.versions(name) if _has_expired(version)]
    for version in found:
        request = request_of(version)
        assert request
        reason = "; ".join(map(str, approval.expired(request.expires).failed))
        try:
            decided_later(version, request.run_id, REJECTED, reason)
        except MlflowException as error:  # somebody deleted the run, which ends no other one
            logging.getLogger(__name__).warning("The run of %s was not found: %s", version, error)
    return found


def note_all_expired() -> None:
    """Do so of every recipe's."""
    for name in registry.names():
        note_expired(name)


def _has_waited(run: "FlowRun") -> bool:
    # One that a person suspended, after it was approved, is left alone.
    if run.state is None or not (run.state.state_details.pause_key or "").startswith(KEY):
        return False
    until = run.labels.get(WAITS_UNTIL)
    return until is not None and datetime.fromisoformat(str(until)) <= datetime.now(UTC)


def _has_expired(version: "RegisteredVersion") -> bool:
    request = request_of(version)
    if {CHAMPION, PREVIOUS} & set(version.aliases):
        return False  # a person promoted it without the form
    if request is None or not request.has_expired() or answer_of(version, request.champion):
        return False
    return waits(version.tags)
