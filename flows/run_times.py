"""How long a flow run worked, and how long it waited for a person: by the states that it went through."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from prefect import get_client, runtime
from prefect.client.schemas.objects import StateType

from flows.dead_runs import states_of
from retune.measures import format_duration

if TYPE_CHECKING:
    from prefect import State


class Times(NamedTuple):
    """Seconds that a run worked, on both sides of a wait, and that it waited for an approval."""

    worked: float
    waited: float

    def __str__(self) -> str:
        waited = f", waited {format_duration(self.waited)} for approval" if self.waited else ""
        return f"worked {format_duration(self.worked)}{waited}"


def times(states: "Sequence[State]", now: datetime) -> Times:
    """Return the times of a run that is in the last of `states` until `now`."""
    ordered = sorted(states, key=lambda state: state.timestamp)
    ends = [*(state.timestamp for state in ordered[1:]), now]

    def seconds(kind: StateType) -> float:
        spans = zip(ordered, ends, strict=True)
        return sum(
            (end - state.timestamp).total_seconds() for state, end in spans if state.type == kind
        )

    return Times(seconds(StateType.RUNNING), seconds(StateType.PAUSED))


def of_this_run() -> Times | None:
    """Return the times of the flow run that asks, until now; None outside of one."""
    if not (run := runtime.flow_run.id):
        return None
    with get_client(sync_client=True) as client:
        return times(states_of(client, UUID(str(run))), datetime.now(UTC))
