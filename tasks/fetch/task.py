"""The task: pins are resolved, then the pinned rows are read."""

import shutil
from typing import Any

from prefect import task

from retune.config import Dataset, Recipe
from retune.records import Pins, Rows
from retune.sources import pin_all
from retune.workspace import Step, building
from tasks.fetch.guarded import fetch_rows
from tasks.stage import stage


@task(
    retries=3,
    retry_delay_seconds=[2, 10, 30],
    retry_condition_fn=lambda _t, _r, state: _is_transient(state),
)
def pin_inputs(recipe: Recipe) -> Pins:
    """Resolve the exact versions of what the run starts from; they stay the same to the end."""
    return pin_all(recipe)


@stage(
    name="fetch",
    retries=2,
    retry_delay_seconds=10,
    retry_condition_fn=lambda _t, _r, state: _is_transient(state),
)
def fetch(dataset: Dataset, pins: Pins, step: Step) -> Rows:
    """Read the dataset at its pinned version and write its rows in one shape."""
    with building(step) as build:
        rows = fetch_rows(dataset, pins.dataset, build.path)
        shutil.rmtree(build.path / "cache", ignore_errors=True)
        return build.finish(Rows, metrics={"rows": rows}, params={"dataset_version": pins.dataset})


def _is_transient(state: Any) -> bool:
    """Retry what the network did; a wrong id or an unreadable file stays wrong."""
    return isinstance(state.result(raise_on_failure=False), (ConnectionError, TimeoutError))
