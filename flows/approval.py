"""Asking a person whether a candidate may serve, without holding a GPU or a process meanwhile.

Of a deployment the flow run is suspended: its process ends, Prefect's page shows a form, and with
the answer the flow runs again, reuses what is made, and goes on at the decision. A run of a command
line ends instead, and `retune approve` does the rest.

Prefect would end a run as Failed ("never resumed") at the moment it was told to wait for. So it is told
one that is `GRACE` later than the request's: by then somebody has let the run go on (`flows.expiry`),
and it ends as Rejected. Prefect calls such a run Suspended, as it does one that a person halts; here it
gets a name and a message that say what it waits for, and keeps all by which Prefect lets it go on.
"""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal
from uuid import UUID

from httpx import HTTPError
from prefect import get_client, get_run_logger, runtime
from prefect.client.schemas.objects import StateType
from prefect.exceptions import Pause
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from prefect.states import Paused
from pydantic import Field

from flows.dead_runs import states_of
from retune.registry.approvals import Request
from retune.retention import WAITING
from retune.tracking import Waiting

if TYPE_CHECKING:
    from prefect import State

KEY = "approval-"  # what the key of such a pause begins with
WAITS_UNTIL = "retune.waits_until"  # label of a flow run: when its request expires, in ISO 8601
GRACE = timedelta(days=30)  # for which Prefect holds a run longer than that


class Approval(RunInput):
    """Whether a candidate becomes the champion."""

    verb: Literal["approve", "reject"] = Field(
        title="Decision", description="approve: it serves from now on; reject: it does not."
    )
    by: str = Field(
        title="Your name",
        min_length=1,
        pattern=r"\S",
        description="Who decides; kept in the promotion log. An approval is never anonymous.",
    )
    reason: str = Field("", title="Reason", description="Why; kept in the promotion log.")


def can_suspend() -> bool:
    """Tell whether this flow run can go on later: it is a deployment's, so a worker starts it."""
    return bool(runtime.deployment.id)


def flow_run_page() -> str:
    """Return the address of this flow run's page in Prefect, "" where no server shows it."""
    address = runtime.flow_run.ui_url or ""
    return address if address.startswith("http") else ""  # a temporary server has no pages


def answered_at(candidate: str, request: Request) -> datetime | None:
    """Return when somebody filled in the form on Prefect's page, as this flow run is about to read it;
    None if nobody has."""
    if not can_suspend():
        return None
    flow_run = UUID(str(runtime.flow_run.id))
    with get_client(sync_client=True) as client:
        key = _key(candidate, request)
        asked = [state for state in states_of(client, flow_run) if _asks(state, key)]
        if not asked:
            return None
        keys = asked[-1].state_details.run_input_keyset or {}
        if "response" not in keys:
            return None
        response = keys["response"]
        filled = client.filter_flow_run_input(flow_run, response, limit=1, exclude_keys=set())
    return filled[0].created if filled else None


def form(candidate: str, request: Request, evidence: str) -> Approval:
    """Return what somebody filled in on Prefect's page; `evidence` is Markdown.

    Raises Waiting, with Prefect's signal as its cause, until then.
    """
    key = _key(candidate, request)
    seconds = round((request.expires + GRACE - datetime.now(UTC)).total_seconds())
    with get_client(sync_client=True) as client:
        until = request.expires.isoformat()
        client.update_flow_run_labels(UUID(str(runtime.flow_run.id)), {WAITS_UNTIL: until})
    waiting = (
        f"Waits for approval until {request.expires:%Y-%m-%d %H:%M} UTC, whether {candidate} shall "
        f"serve: menu ⋮ → Resume on this run's page in Prefect, or `retune approve {candidate}`"
    )
    asked = Approval.with_initial_data(description=evidence)
    try:
        return suspend_flow_run(wait_for_input=asked, timeout=seconds, key=key)
    except Pause as pause:
        get_run_logger().info("%s", waiting)  # of one that goes on nobody is told so again
        _name(pause, waiting)
        raise Waiting(waiting) from pause


def _name(pause: Pause, message: str) -> None:
    """Let Prefect's pages say of a run that was suspended just now what it waits for; where they cannot
    be told, it waits all the same."""
    assert pause.state is not None, "Prefect's own"
    details = pause.state.state_details
    named: State[object] = Paused(
        name=WAITING,
        message=message,
        pause_expiration_time=details.pause_timeout,
        reschedule=True,
        pause_key=details.pause_key,
    )
    named.state_details.run_input_keyset = details.run_input_keyset
    try:
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(UUID(str(runtime.flow_run.id)), named, force=True)
    except HTTPError as error:
        get_run_logger().warning("the run's state does not say what it waits for: %s", error)


def _key(candidate: str, request: Request) -> str:
    # Against another champion it is another question.
    return f"{KEY}{candidate.replace('/', '-')}-{request.champion or 'base'}"


def _asks(state: "State", key: str) -> bool:
    return state.type == StateType.PAUSED and state.state_details.pause_key == key
