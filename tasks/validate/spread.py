"""The gate's work on single rows over the machines of a cluster, by Ray Data.

A part of the rows goes to a machine as the bytes of a Parquet file, and what it says of them comes back
in the same way. Ray's own processes, which have their machine's credentials, move these bytes and
no more: what reads the rows there is a child without them, as on one machine.
"""

import io
import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expectations.data.looking import look_here
from expectations.data.messages import Rules
from retune.child import ChildRefused, run_child
from retune.errors import HubUnreachable
from retune.placement import is_placed
from retune.recipe import Recipe
from retune.sources import SourceError
from retune.temporary import temporary_folder
from tasks.validate.look_child import LookJob

if TYPE_CHECKING:
    import polars as pl

    from expectations.data.looking import Look

CHILD = Path(__file__).with_name("look_child.py")
PART_ROWS, PART_BYTES = 100_000, 64 << 20  # of what a machine is given at a time, about
_REFUSALS = {kind.__name__: kind for kind in (ChildRefused, HubUnreachable, SourceError)}
READ_AHEAD = 2  # parts that are read at a time, where the file is


def is_spread(rows: Path, recipe: Recipe) -> bool:
    """Tell whether the rows of a file are for all machines: they are many, this stage was sent to one of
    several machines of a cluster, and others can work."""
    import pyarrow.parquet as pq

    many = pq.read_metadata(rows).num_rows >= recipe.infra.spread_rows
    return is_placed() and many and _has_others()


def look_for(rows: Path, recipe: Recipe) -> "Look":
    """Return what looks at the single rows of a file: all machines of a cluster, or this process."""
    return look_there if is_spread(rows, recipe) else look_here


def look_there(rows: Path, rules: Rules) -> "Iterator[pl.DataFrame]":
    """Yield what `look_here` does, of other batches, looked at on all machines of the cluster."""
    import polars as pl

    job = LookJob(rows=Path("rows.parquet"), lines=Path("lines.parquet"), **rules._asdict())
    parts = _parts(rows)
    for found in spread(parts, _Reader(rows), _Looker(job.model_dump_json())):
        yield pl.read_parquet(io.BytesIO(found))


def spread(
    parts: Iterable[Any],
    read: "Callable[[Any], bytes]",
    work: "Callable[[bytes], bytes]",
    pool: int = 0,
) -> Iterator[bytes]:
    """Yield `work(read(part))` for each part, in order; `read` runs on this machine, `work` on any, with
    a CPU of its own, or by `pool` actors with a GPU each. What is begun is bounded by Ray's memory.
    Raises ChildRefused, HubUnreachable and SourceError as these do."""
    import ray
    from ray.data import ActorPoolStrategy, TaskPoolStrategy

    logging.getLogger("ray.data").setLevel(logging.WARNING)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    every = list(parts)
    items = ray.data.from_items(every, override_num_blocks=len(every))
    # No CPU is asked for: this stage has those of its machine.
    few = TaskPoolStrategy(size=READ_AHEAD)
    texts = items.map(_Step(read), num_cpus=0, compute=few, label_selector=here)
    if pool:
        actors = ActorPoolStrategy(min_size=1, max_size=pool)
        found = texts.map(
            _Step, fn_constructor_args=(work,), compute=actors, num_cpus=1, num_gpus=1
        )
    else:
        found = texts.map(_Step(work), num_cpus=1)
    for row in found.iter_rows():
        if row["refusal"]:
            raise _REFUSALS[row["kind"]](row["refusal"])
        yield row["item"]


class _Step:
    """A function of what a row of Ray's holds, or what it says that a person has to mend: of an error
    Ray would keep the traceback alone."""

    def __init__(self, function: Callable[[Any], bytes]) -> None:
        self._function = function

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        if row.get("refusal"):
            return row
        try:
            return {"item": self._function(row["item"]), "refusal": "", "kind": ""}
        except tuple(_REFUSALS.values()) as refusal:
            return {"item": b"", "refusal": str(refusal), "kind": type(refusal).__name__}


class _Reader:
    """Reads row groups of a file, of which the first and the last are named, into a file's bytes."""

    def __init__(self, rows: Path) -> None:
        self._rows = rows

    def __call__(self, groups: tuple[int, int]) -> bytes:
        import pyarrow.parquet as pq

        first, last = groups
        with pq.ParquetFile(self._rows, pre_buffer=False) as file:
            table = file.read_row_groups(range(first, last + 1))
        return as_bytes(table)


class _Looker:
    """Looks at the rows in a file's bytes, in a child; `job` is what the child is told, as JSON."""

    def __init__(self, job: str) -> None:
        self._job = job

    def __call__(self, rows: bytes) -> bytes:
        job = LookJob.model_validate_json(self._job)
        with temporary_folder() as folder:
            files = {"rows": folder / job.rows, "lines": folder / job.lines}
            files["rows"].write_bytes(rows)
            run_child(CHILD, job.model_copy(update=files), folder / "look.log", forked=True)
            return files["lines"].read_bytes()


def as_bytes(table: Any) -> bytes:
    """Return an Arrow table as the bytes of a Parquet file."""
    import pyarrow.parquet as pq

    file = io.BytesIO()
    pq.write_table(table, file, row_group_size=PART_ROWS // 10)
    return file.getvalue()


def _parts(rows: Path) -> list[tuple[int, int]]:
    """Return the first and the last row group of each part of a file."""
    import pyarrow.parquet as pq

    metadata = pq.read_metadata(rows)
    parts, first, count, size = [], 0, 0, 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        count, size = count + group.num_rows, size + group.total_byte_size
        if count >= PART_ROWS or size >= PART_BYTES or number == metadata.num_row_groups - 1:
            parts.append((first, number))
            first, count, size = number + 1, 0, 0
    return parts


def _has_others() -> bool:
    """Tell whether another machine of the cluster has processors."""
    import ray

    own = ray.get_runtime_context().get_node_id()
    return any(
        node["Alive"] and node["NodeID"] != own and node["Resources"].get("CPU", 0) >= 1
        for node in ray.nodes()
    )
