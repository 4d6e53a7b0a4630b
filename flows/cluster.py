"""Stages on the machines of a cluster (RETUNE_CLUSTER): Ray places them, through Prefect's prefect-ray.

A stage whose machine is lost runs again on another one: with what the store has of it, as a training
its last checkpoint. A run that is told to end tells its stages, and waits for what they leave.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from prefect import flow, get_run_logger
from prefect.context import FlowRunContext

from flows.needs import Needs, needs_of
from flows.ray_cluster import ClusterError, address, connected, machines
from flows.run_names import FLOW
from flows.runs_at_work import patience
from retune.errors import RetuneError
from retune.outputs import Step
from retune.placement import CLUSTER, Assignment
from retune.recipe import Recipe
from retune.recipe.address import is_address
from retune.sources import local_path
from retune.store import checkpoints
from retune.store.place import store
from tasks.stage import PLACEMENT, Stage

RUNS_AGAIN = 3  # times that a stage whose machine or process is lost begins again
LOOK, SOON = 1.0, 0.1  # seconds between two looks at what runs, later and at first
RECKONED = 30  # seconds between two looks at whether a machine has what is waited for
THREADED = ("convert", "calibrate", "quantize")  # stages that are told their number of threads


class StageLost(RetuneError):
    """A stage did not come to its end, because the machines that it ran on were lost."""


@flow(name=FLOW)
def _line() -> None:
    """What stands for the flow on other machines: of the flow itself they need no more than its name."""


@contextmanager
def placed() -> Iterator[None]:
    """Run the stages of a block on the cluster, if there is one; when it is left early, by an error or a
    signal, end those that run. Raises ClusterError where it cannot be reached."""
    where = address()
    if where is None:
        yield
        return
    with connected(where), _Cluster() as cluster:
        token = PLACEMENT.set(cluster)
        try:
            yield
        except BaseException as error:
            cluster.end(error)
            raise
        finally:
            PLACEMENT.reset(token)


class _Cluster:
    """Runs stages by Ray."""

    def __init__(self) -> None:
        from prefect_ray import RayTaskRunner

        self._runner = RayTaskRunner()  # which finds that there is a connection
        self._open: dict[Any, Step] = {}  # what runs, by Ray's references

    def __enter__(self) -> "_Cluster":
        self._runner.__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        self._runner.__exit__(*raised)

    def takes(self, arguments: Mapping[str, Any]) -> bool:
        """Tell whether a stage has work for the cluster; this machine's own files are read here."""
        step, recipe = arguments["step"], arguments["recipe"]
        sources = [part.source for part in recipe.dataset.parts] if step.stage == "fetch" else []
        is_here = any(_is_here(source) for source in sources)
        return not step.done and not is_here

    def run(self, stage: Stage[..., Any], arguments: Mapping[str, Any]) -> Any:
        """Run a stage on a machine that has what it needs, and return its output. Raises what the stage
        does, ClusterError and StageLost."""
        (outcome,) = self.run_all(stage, [arguments])
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def run_all(self, stage: Stage[..., Any], calls: Sequence[Mapping[str, Any]]) -> list[Any]:
        """Run a stage several times, side by side; return, once all have ended, the output of each, or
        what it raised."""
        submitted = [self._submit(stage, arguments) for arguments in calls]
        outcomes: list[Any] = []
        for (future, needs), arguments in zip(submitted, calls, strict=True):
            try:
                outcomes.append(self._result(future, needs, arguments["recipe"]))
            except Exception as error:
                outcomes.append(error)
        return outcomes

    def end(self, reason: BaseException) -> None:
        """Tell the stages that run to end, and give them the time that it takes to write and send a
        checkpoint; note in `reason` what is kept of a training. A second signal does not wait."""
        import ray

        for reference in self._open:
            with suppress(Exception):  # it has just ended, or its machine is gone
                ray.cancel(reference, force=False)
        told = list(self._open.values())
        deadline = time.monotonic() + patience()
        with suppress(Exception):  # the cluster itself is gone; a signal is none
            while self._still_open() and time.monotonic() < deadline:
                time.sleep(SOON)
        for step in told:
            if newest := checkpoints.newest_step(step.name):
                reason.add_note(f"the checkpoint of step {newest:,} is kept")

    def _submit(self, stage: Stage[..., Any], arguments: Mapping[str, Any]) -> tuple[Any, Needs]:
        from prefect_ray.context import remote_options

        step, recipe, shared = arguments["step"], arguments["recipe"], store()
        assert shared, "a cluster has a store"
        needs = needs_of(step.stage, recipe, machines())
        told = stage.assigned(Assignment(shared.address, needs.gpus, needs.disk))
        given = dict(arguments) | {"recipe": _with_threads(recipe, needs)}
        context = FlowRunContext.get()
        assert context, "stages are placed by a flow"
        with (
            remote_options(**needs.options(), max_retries=RUNS_AGAIN),
            context.model_copy(update={"flow": _line}),
        ):
            future = self._runner.submit(told, given)
        self._open[future.wrapped_future] = step
        return future, needs

    def _result(self, future: Any, needs: Needs, recipe: Recipe) -> Any:
        """Wait for a stage and return its output.

        It is asked for now and then: a wait for Ray would hold signals back.
        """
        import ray

        waiting = _Waiting(needs, 3600 * recipe.infra.wait_hours)
        pause = SOON
        try:
            while future.wrapped_future in self._still_open():
                waiting.look()
                time.sleep(pause)
                pause = min(LOOK, 1.2 * pause)
            return future.result()
        except ray.exceptions.RayTaskError:
            raise  # of ours, with its traceback
        except ray.exceptions.RayError as error:
            raise StageLost(
                f"{needs.stage} was begun {RUNS_AGAIN + 1} times at most, and each time its machine or "
                f"process was lost ({_brief(error)}): see that the machines stay, and run again; what "
                f"is finished is kept, a training goes on from its last checkpoint in the store"
            ) from None
        except ConnectionError as error:
            raise ClusterError(
                f"{CLUSTER}: the cluster was lost while {needs.stage} ran ({_brief(error)}): start it, "
                f"and run again; what is finished is kept"
            ) from None

    def _still_open(self) -> list[Any]:
        """Return what still runs."""
        import ray

        references = list(self._open)
        if references:
            ended, _ = ray.wait(references, num_returns=len(references), timeout=0)
            for reference in ended:
                del self._open[reference]
        return list(self._open)


class _Waiting:
    """Tells of a stage for which no machine has enough, and ends its wait."""

    def __init__(self, needs: Needs, seconds: float) -> None:
        self._needs, self._seconds = needs, seconds
        self._since: float | None = None
        self._due = 0.0

    def look(self) -> None:
        """Look whether a machine of the cluster has what is needed, now and then. Raises ClusterError."""
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + RECKONED
        there = machines()
        if any(self._needs.fit(machine) for machine in there):
            self._since = None
            return
        lacking = (
            f"{self._needs.stage} needs a machine with {self._needs} (infra.resources."
            f"{self._needs.stage}), and none of the cluster's {len(there)} has that"
        )
        if self._since is None:
            self._since = now
            get_run_logger().warning("%s: it waits for one", lacking)
        elif now - self._since > self._seconds:
            raise ClusterError(
                f"{lacking}; none came in {self._seconds / 3600:g} hours (infra.wait_hours)"
            )


def _is_here(source: str) -> bool:
    return not is_address(source) and local_path(source, "dataset.source") is not None


def _with_threads(recipe: Recipe, needs: Needs) -> Recipe:
    """Return the recipe with the number of threads that llama.cpp's programs have on a machine."""
    config = recipe.quantization
    if needs.stage not in THREADED or config.threads:
        return recipe
    settled = config.model_copy(update={"threads": needs.cpus})
    return recipe.model_copy(update={"quantization": settled})


def _brief(error: Exception) -> str:
    said = str(error).strip() or type(error).__name__
    return " ".join(said.split())[:200]
