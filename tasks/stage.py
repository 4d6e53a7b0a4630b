"""What makes a function a stage: a Prefect task that is skipped while its output exists."""

import functools
import inspect
import typing
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

from prefect import State, Task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed

from retune.workspace import Output, Step, read_output

P = ParamSpec("P")
SomeOutput = TypeVar("SomeOutput", bound=Output)


class Stage(Task[P, SomeOutput]):
    """A task that hands on its output also when it was made before, as a state of Prefect's.

    Called as the function that it is made of; `submit` and `map` are Prefect's.
    """

    # Prefect's own takes `return_state` and `wait_for` besides, which no stage is called with.
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> SomeOutput:  # type: ignore[override]
        made: SomeOutput | State[SomeOutput] = super().__call__(*args, **kwargs)
        return made.result() if isinstance(made, State) else made


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
            if step.done:
                made = read_output(step, typing.get_type_hints(body)["return"])
                message = f"made before: {step.folder}"
                # Prefect takes a state for what its data is.
                return cast("SomeOutput", Completed(name="Cached", message=message, data=made))
            return body(*args, **kwargs)

        return Stage(once, name=name, cache_policy=NO_CACHE, persist_result=False, **options)

    return decorate


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
