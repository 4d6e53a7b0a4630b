"""How long a stage may take: a limit that its waiting loops ask for, so that it ends in order."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from retune.errors import RetuneError


class StageTimeout(RetuneError):
    """A stage took longer than the recipe allows; the message names both."""


class _Limit(NamedTuple):
    stage: str
    hours: float
    deadline: float  # of the monotonic clock


# Of a context, since methods of quantization run side by side in threads, each with its own.
_limit: ContextVar[_Limit | None] = ContextVar("stage's time limit", default=None)


@contextmanager
def limited(stage: str, hours: float | None) -> Iterator[None]:
    """Let a stage take `hours` at most, None for as long as it likes, for the length of a block."""
    deadline = _Limit(stage, hours, time.monotonic() + 3600 * hours) if hours else None
    token = _limit.set(deadline)
    try:
        yield
    finally:
        _limit.reset(token)


def remaining() -> float | None:
    """Return how many seconds the stage has left, at least 0; None if it has no limit."""
    limit = _limit.get()
    return max(0.0, limit.deadline - time.monotonic()) if limit else None


def require_time() -> None:
    """Raise StageTimeout if the stage has had its time."""
    limit = _limit.get()
    if limit and time.monotonic() >= limit.deadline:
        raise StageTimeout(
            f"{limit.stage} took longer than gates.stage_hours allows ({limit.hours:g} hours): raise "
            f"it there and run again; what is finished is kept, a training goes on from its checkpoint"
        )
