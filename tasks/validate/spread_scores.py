"""Scores over the machines of a cluster: each scores a few shards at a time, as one machine does all."""

import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from retune.child import Event, run_child
from retune.recipe import Recipe
from retune.sources import unchanged
from retune.temporary import temporary_folder
from tasks.validate.scoring import CHILD, Score, score_here
from tasks.validate.scoring_child import SETTING, ScoringJob
from tasks.validate.spread import as_bytes, is_spread, spread

SHARDS = 16  # that a machine is given at a time: each time it loads the classifier


def score_for(rows: Path, recipe: Recipe) -> Score:
    """Return what scores rows of a file: all machines of a cluster, or a child of this process."""
    return score_there if is_spread(rows, recipe) else score_here


def score_there(job: ScoringJob, total: int, on_progress: Callable[[str], None]) -> Event:
    """Do what `score_here` does on all machines of the cluster; on their GPUs, if there are any."""
    started, result = time.monotonic(), Event()
    before = total - len(job.numbers)
    rows = tokens = 0
    size = SHARDS * job.shard_rows
    parts = [job.numbers[start : start + size] for start in range(0, len(job.numbers), size)]
    told = job.model_copy(update={"numbers": []}).model_dump_json()
    for found in spread(parts, _Reader(job.rows), _Scorer(told), _gpus()):
        scored = _unpacked(found)
        for name, content in scored.shards.items():
            _write(job.folder / name, content)
        rows, tokens, result = rows + scored.rows, tokens + scored.tokens, scored.result
        on_progress(f"scored {before + rows:,} of {total:,} rows on the cluster")
    seconds = max(time.monotonic() - started, 1e-9)
    return result | {"rows_per_second": rows / seconds, "tokens_per_second": tokens / seconds}


class _Scored(NamedTuple):
    """What a machine made of its shards: files by their names, what its child said, rows and tokens."""

    shards: dict[str, bytes]
    result: Event

    @property
    def rows(self) -> int:
        return int(self.result["rows"])

    @property
    def tokens(self) -> int:
        rate = self.result["tokens_per_second"] / self.result["rows_per_second"]
        return round(rate * self.rows)


class _Reader:
    """Reads those rows of a file that have one of the numbers, which ascend, into a file's bytes."""

    def __init__(self, rows: Path) -> None:
        self._rows = rows

    def __call__(self, numbers: list[int]) -> bytes:
        import pyarrow.parquet as pq

        wanted = [
            ("row", ">=", numbers[0]),
            ("row", "<=", numbers[-1]),
            ("row", "in", set(numbers)),
        ]
        return as_bytes(pq.read_table(self._rows, columns=["row", "messages"], filters=wanted))


class _Scorer:
    """Scores the rows in a file's bytes, in a child; `job` is what the child is told, as JSON."""

    def __init__(self, job: str) -> None:
        self._job = job

    def __call__(self, rows: bytes) -> bytes:
        import pyarrow.parquet as pq

        job = ScoringJob.model_validate_json(self._job)
        numbers = pq.read_table(io.BytesIO(rows), columns=["row"])["row"].to_pylist()
        with temporary_folder() as folder:
            file = folder / "rows.parquet"
            file.write_bytes(rows)
            (folder / "shards").mkdir()
            here = {"rows": file, "numbers": numbers, "folder": folder / "shards"}
            with unchanged(job.config.model, job.version, f"{SETTING}.model"):
                result = run_child(
                    CHILD,
                    job.model_copy(update=here),
                    folder / "scoring.log",
                    env={"TOKENIZERS_PARALLELISM": "true"},
                    hub=job.config.revision is not None,
                    forked=True,
                )
            shards = {one.name: one.read_bytes() for one in (folder / "shards").glob("*.parquet")}
        return _packed(_Scored(shards, result))


def _packed(scored: _Scored) -> bytes:
    import pyarrow as pa

    table = pa.table({"name": [*scored.shards], "content": [*scored.shards.values()]})
    return as_bytes(table.replace_schema_metadata({"result": json.dumps(scored.result)}))


def _unpacked(found: bytes) -> _Scored:
    import pyarrow.parquet as pq

    table = pq.read_table(io.BytesIO(found))
    names, contents = table["name"].to_pylist(), table["content"].to_pylist()
    result = json.loads(table.schema.metadata[b"result"])
    return _Scored(dict(zip(names, contents, strict=True)), result)


def _write(path: Path, content: bytes) -> None:
    partial = path.with_suffix(".there.partial")
    partial.write_bytes(content)
    partial.replace(path)


def _gpus() -> int:
    import ray

    return int(ray.cluster_resources().get("GPU", 0))
