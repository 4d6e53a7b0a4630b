"""fetch: a Hub dataset at a pinned commit, or local files, as rows of one shape."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import get_run_logger, task

from retune.config import Dataset, Recipe
from retune.inspection import inspect_inputs
from retune.records import Pins, Rows
from retune.sources import pin_all
from retune.workspace import Step, building, remove
from tasks.fetch.batches import to_rows
from tasks.fetch.columns import row_schema
from tasks.fetch.reading import read
from tasks.stage import stage

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["fetch", "pin_inputs", "read", "to_rows", "write_rows"]

GROUP_ROWS, GROUP_BYTES = 10_000, 256 << 20  # of a Parquet row group, at most; they bound memory


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
def fetch(dataset: Dataset, pins: Pins, step: Step) -> Rows:
    """Read the dataset at its pinned version and write its rows in one shape."""
    with building(step) as build:
        batches = read(dataset, pins.commit(pins.dataset), build.path / "cache")
        rows = write_rows(to_rows(batches, dataset.source), build.path / "rows.parquet")
        remove(build.path / "cache")
        return build.finish(Rows, metrics={"rows": rows}, params={"dataset_version": pins.dataset})


def write_rows(tables: "Iterable[pa.Table]", path: Path) -> int:
    """Write tables of `row_schema()` to one Parquet file; returns how many rows there are."""
    import pyarrow.parquet as pq

    rows = 0
    with pq.ParquetWriter(path, row_schema()) as writer:
        for group in _groups(tables):
            writer.write_table(group)
            rows += len(group)
    return rows


def _groups(tables: "Iterable[pa.Table]") -> "Iterator[pa.Table]":
    """Join and cut tables to the size of row groups."""
    import pyarrow as pa

    held: list[pa.Table] = []
    for table in tables:
        held.append(table)
        if sum(map(len, held)) >= GROUP_ROWS or sum(part.nbytes for part in held) >= GROUP_BYTES:
            joined = pa.concat_tables(held)
            yield joined.slice(0, GROUP_ROWS)
            held = [joined.slice(GROUP_ROWS)] if len(joined) > GROUP_ROWS else []
    if held:
        yield pa.concat_tables(held)


def _is_transient(state: Any) -> bool:
    """Retry what the network did; a wrong id or an unreadable file stays wrong."""
    return isinstance(state.result(raise_on_failure=False), (ConnectionError, TimeoutError))
