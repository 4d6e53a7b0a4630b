"""For how long runs are in their states, by a clock that nobody sets.

A state's own time is another clock's: once that is set, by hand or because it was wrong when the machine
started, a run that was just taken seems to be hours old, or one that hangs to be of the future.
"""

import time
from typing import TYPE_CHECKING
from uuid import UUID

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun


class StateAges:
    """What one process has seen of the states of runs, look by look."""

    def __init__(self) -> None:
        self._before: dict[UUID, float] = {}
        self._now: dict[UUID, float] = {}

    def next_look(self) -> None:
        """Forget the states that the last look did not ask for."""
        self._before, self._now = self._now, {}

    def of(self, run: "FlowRun") -> float:
        """Return for how many seconds a run has been seen in its state, 0 the first time."""
        if run.state is None:
            return 0
        moment = time.monotonic()
        since = self._now.setdefault(run.state.id, self._before.get(run.state.id, moment))
        return moment - since
