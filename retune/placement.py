"""A stage that runs on another machine than its flow: what goes along, and what that machine must have.

The machine works with the environment that its Ray was started with (a home folder of its own, the
credentials of the store and the servers); no secret goes along.
"""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import NamedTuple

from retune.disk_space import require_space
from retune.errors import RetuneError
from retune.gpu_lock import gpus_alone
from retune.home import keep_private, make_home
from retune.machine import require_machine
from retune.made_with import made_with
from retune.outputs import Step
from retune.recipe import Recipe
from retune.store import cache
from retune.store.place import ADDRESS, store

CLUSTER = "RETUNE_CLUSTER"
MADE_WITH = "made with"  # in the key of a step, see flows/plan.py
_PLACED = ContextVar("whether a stage runs on a machine that a cluster has for it", default=False)


def is_placed() -> bool:
    """Tell whether this is a stage that was sent to a machine of a cluster."""
    return _PLACED.get()


class HostUnfit(RetuneError):
    """A machine of the cluster is not set up as the run's own; the message says what to change there."""


class Assignment(NamedTuple):
    """What a machine is told with a stage: the store, the GPUs that it has for it, and the GiB of disk
    that must be free."""

    store: str
    gpus: int = 0
    disk: float | None = None

    @contextmanager
    def at_work(
        self, recipe: Recipe, step: Step, module: str, tell: Callable[[str], None]
    ) -> Iterator[None]:
        """Be the machine that a stage, the task in `module`, runs on, for the length of a block.

        Raises HostUnfit, NoSpaceLeft and MachineUnfit before it.
        """
        keep_private()
        tell(f"runs on {socket.gethostname()}")
        self._require_same_store()
        _require_same_code(step, module)
        if self.gpus:
            require_machine(recipe)
        if self.disk:
            require_space(make_home(), round(self.disk * 2**30), step.stage, "infra.resources")
        token = _PLACED.set(True)
        try:
            with gpus_alone(recipe, tell) if self.gpus else nullcontext():
                yield
        finally:
            _PLACED.reset(token)
            cache.let_go()  # the process stays, for other stages

    def _require_same_store(self) -> None:
        here = shared.address if (shared := store()) else "not set"
        if here != self.store:
            raise HostUnfit(
                f"{_host()}: {ADDRESS} is {here} there and {self.store} for the run: set the same, and "
                f"start Ray there again"
            )
        if not os.environ.get("MLFLOW_TRACKING_URI"):
            raise HostUnfit(
                f"{_host()}: MLFLOW_TRACKING_URI is not set there: set it, and start Ray there again"
            )


def _require_same_code(step: Step, module: str) -> None:
    """Raise HostUnfit if this machine would make the output with other code than its key says."""
    planned: dict[str, str] | None = step.key.get(MADE_WITH)
    if planned is None or planned == (ours := made_with(step.stage, module)):
        return
    names = sorted(name for name in {*planned, *ours} if planned.get(name) != ours.get(name))
    raise HostUnfit(
        f"{_host()} has other code than the machine of the run ({', '.join(names[:3])}): install the "
        f"same version of retune and of requirements.lock there, and start Ray there again"
    )


def _host() -> str:
    return f"the host {socket.gethostname()}"
