"""The task: pins are resolved, then the pinned rows are read."""

from typing import Any

from prefect import get_run_logger, task

from retune.building import building
from retune.home import remove
from retune.inspection import inspect_inputs
from retune.outputs import Step
from retune.pinning import pin_all
from retune.recipe import Recipe
from retune.records import Pins, Rows
from tasks.fetch.guarded import fetch_rows
from tasks.stage import stage


@task(
    retries=3,
    retry_delay_seconds=[2, 10, 30],
    retry_condition_fn=lambda _t, _r, state: _is_transient(state),
)
def pin_inputs(recipe: Recipe) -> Pins:
    """Resolve the exact versions of what the run starts from; they stay the same to the end.

    Models that may not be loaded end the run here.
    """
    pins = pin_all(recipe)
    inspect_inputs(recipe, pins)
    if allowed := recipe.model.trust_remote_code:
        get_run_logger().warning(
            "code that comes with %s runs in this run, as allowed for %s",
            recipe.model.base,
            allowed,
        )
    return pins


@stage(
    name="fetch",
    retries=2,
    retry_delay_seconds=10,
    retry_condition_fn=lambda _t, _r, state: _is_transient(state),
)
def fetch(recipe: Recipe, pins: Pins, step: Step) -> Rows:
    """Read the dataset at its pinned version and write its rows in one shape."""
    with building(step) as build:
        rows = fetch_rows(
            recipe.dataset, pins.dataset, build.path, pins.mix, get_run_logger().warning
        )
        remove(build.path / "cache")
        return build.finish(Rows, metrics={"rows": rows}, params={"dataset_version": pins.dataset})


def _is_transient(state: Any) -> bool:
    """Retry what the network did; a wrong id or an unreadable file stays wrong."""
    return isinstance(state.result(raise_on_failure=False), (ConnectionError, TimeoutError))
