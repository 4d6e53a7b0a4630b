"""What makes a function a stage: a Prefect task that is skipped while its output exists."""

import functools
import inspect
import time
import typing
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from importlib import import_module
from signal import SIGKILL
from typing import Any, ParamSpec, Protocol, TypeVar, cast

from httpx import HTTPError
from prefect import State, Task, get_run_logger
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import MissingContextError
from prefect.states import Completed

from retune.building import OutputBusy
from retune.errors import ProgramFailed
from retune.outputs import Output, Step, maker, offer, read_output, settled
from retune.placement import Assignment
from retune.recipe import Recipe
from retune.store.place import StoreUnreachable
from retune.time_limit import limited, require_time

LOOK, LONGEST_LOOK = 1.0, 30.0  # seconds between two looks at an output that another run builds

P = ParamSpec("P")
SomeOutput = TypeVar("SomeOutput", bound=Output)


class Placement(Protocol):
    """What runs stages on other machines (see `flows.cluster`), given as their arguments by name."""

    def takes(self, arguments: Mapping[str, Any]) -> bool: ...

    def run(self, stage: "Stage[..., Any]", arguments: Mapping[str, Any]) -> Any: ...

    def run_all(
        self, stage: "Stage[..., Any]", calls: Sequence[Mapping[str, Any]]
    ) -> list[Any]: ...


PLACEMENT: ContextVar[Placement | None] = ContextVar("where stages run", default=None)


class Stage(Task[P, SomeOutput]):
    """A task that hands on its output also when it was made before, as a state of Prefect's.

    Called as the function that it is made of; `submit` and `map` are Prefect's. With a PLACEMENT it
    runs where that says.
    """

    assignment: Assignment | None = None  # on a machine of a cluster: what it was sent with

    # Prefect's own takes `return_state` and `wait_for` besides, which no stage is called with.
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> SomeOutput:  # type: ignore[override]
        if placement := PLACEMENT.get():
            arguments = inspect.signature(self.fn).bind(*args, **kwargs).arguments
            if placement.takes(arguments):
                return cast("SomeOutput", placement.run(self, arguments))
        made: SomeOutput | State[SomeOutput] = super().__call__(*args, **kwargs)
        return made.result() if isinstance(made, State) else made

    def assigned(self, assignment: Assignment) -> "Stage[P, SomeOutput]":
        """Return the stage as it runs on a machine of a cluster."""
        body = self.fn

        @functools.wraps(body)
        def there(*args: P.args, **kwargs: P.kwargs) -> SomeOutput:
            arguments = inspect.signature(body).bind(*args, **kwargs).arguments
            with assignment.at_work(arguments["recipe"], arguments["step"], self.__module__, _tell):
                return body(*args, **kwargs)

        stage: Stage[P, SomeOutput] = Stage.__new__(Stage)
        vars(stage).update(vars(self) | {"fn": there, "assignment": assignment})
        return stage

    def __reduce__(self) -> tuple[Any, ...]:
        """Go to another process by name: the stage is that machine's own code."""
        return _named, (self.__module__, self.fn.__name__, self.assignment)


def _named(module: str, name: str, assignment: Assignment | None) -> "Stage[..., Any]":
    found: Stage[..., Any] = getattr(import_module(module), name)
    return found.assigned(assignment) if assignment else found


def stage(name: str, **options: Any) -> Callable[[Callable[P, SomeOutput]], Stage[P, SomeOutput]]:
    """Return the decorator of a stage: a function with a parameter `step` that returns an Output.

    Whether it is done, and with what, only the output's own `output.json` says: Prefect keeps no
    result of its own, and shows a stage that was skipped as Cached. `options` are Prefect's.
    """

    def decorate(body: Callable[P, SomeOutput]) -> Stage[P, SomeOutput]:
        signature = inspect.signature(body)

        @functools.wraps(body)
        def once(*args: P.args, **kwargs: P.kwargs) -> SomeOutput:
            step: Step = signature.bind(*args, **kwargs).arguments["step"]
            recipe: Recipe = signature.bind(*args, **kwargs).arguments["recipe"]

            with limited(name, recipe.gates.stage_hours.get(name)):
                built = _built(step, lambda: settled(body(*args, **kwargs)))
            if built is not None:
                return built
            try:
                offer(step)
            except StoreUnreachable as away:  # it is offered when it is used the next time
                _tell(str(away))
            made = read_output(step, typing.get_type_hints(body)["return"])
            message = _reused(made)
            _tell(message)
            # Prefect takes a state for what its data is.
            return cast("SomeOutput", Completed(name="Cached", message=message, data=made))

        again: dict[str, Any] = {"retries": 1, "retry_condition_fn": was_killed} | options
        return Stage(once, name=name, cache_policy=NO_CACHE, persist_result=False, **again)

    return decorate


def _built(step: Step, build: Callable[[], SomeOutput]) -> SomeOutput | None:
    """Return what `build` makes, None if the output is there, or was made by another run meanwhile.

    That is waited for: a run that nobody looks after would fail by what the next minute makes good.
    Raises StageTimeout if it takes longer than the stage may.
    """
    pause = 0.0
    while not step.done:
        if not pause:
            _tell("begins")
        try:
            return build()
        except OutputBusy:
            if not pause:
                _tell("waits for another run, which makes the same")
            require_time()
            pause = min(LONGEST_LOOK, 1.5 * pause or LOOK)
            time.sleep(pause)
    return None


def _tell(message: str) -> None:
    """Log a line of the stage; called as the function that it is made of, it has no run to log to."""
    with suppress(MissingContextError):
        get_run_logger().info("%s", message)


def _reused(made: Output) -> str:
    """Return by which run an output was made, when, and where it is."""
    run = maker(made.step)
    made_by = f" from run {run[:8]}" if run else ""
    return f"reused{made_by}: {made.origin}: {made.step.folder}"


def was_killed(_task: Any, _run: Any, state: Any) -> bool:
    """Tell whether the system ended a stage's process (SIGKILL: memory ran out, or a machine is to be
    emptied), which may go well a second time; what a person has to mend does not."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, ProgramFailed) and error.signal == SIGKILL


def show(make: Callable[..., Any], *args: Any, **fields: Any) -> Any:
    """Make something to look at on Prefect's pages, and return it. While the server is away there is
    none, which ends no run."""
    try:
        return make(*args, **fields)
    except HTTPError as error:
        with suppress(MissingContextError):  # of a command, which is no run
            get_run_logger().warning(
                "%s is not on Prefect's pages: %s (%s)",
                *(fields.get("key", "the progress"), type(error).__name__, error),
            )
        return None


def secret_block(name: str) -> str | None:
    """Return what the Secret block `name` of Prefect holds, None if there is none that holds a text."""
    from prefect.blocks.system import Secret

    try:
        # `_sync` is of the wrapper that Prefect makes of `load`; its types do not tell.
        block: Any = Secret.load(name, _sync=True)  # type: ignore[call-arg]
        value = block.get()
    except ValueError:
        return None  # no block of that name
    return value if isinstance(value, str) and value else None
