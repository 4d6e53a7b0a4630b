"""The confined child of `tasks.fetch.guarded`: downloads a split's files, or reads them."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from retune.child import Event
from retune.confined import ConfinedJob, alive, confined
from retune.recipe import Dataset
from retune.sources import SourceError
from tasks.fetch.batches import to_rows
from tasks.fetch.hub import Files
from tasks.fetch.reading import download, read_files
from tasks.fetch.unused import Notes
from tasks.fetch.writing import write_rows

if TYPE_CHECKING:
    import pyarrow as pa


class FetchJob(ConfinedJob):
    """What is to be done: with `files` they are read into `rows`, without them they are found.

    Rows that name no source get `name`.
    """

    dataset: Dataset
    name: str
    commit: str | None
    files: Files | None = None
    cache: Path
    rows: Path


def work(job: FetchJob) -> Event:
    if job.files is None:
        return {"files": download(job.dataset, job.commit).model_dump(mode="json")}
    batches, notes = read_files(job.dataset, job.files, job.cache), Notes()
    tables = to_rows(batches, job.name, notes)
    rows = write_rows(_bounded(tables, job.dataset), job.rows)
    notes.summary().write(job.rows.parent)
    return {"rows": rows}


def _bounded(tables: "Iterator[pa.Table]", dataset: Dataset) -> "Iterator[pa.Table]":
    """Return the tables, and say with each that there is progress. Raises SourceError for too many."""
    rows = 0
    for table in tables:
        alive()
        rows += len(table)
        if rows > dataset.max_rows:
            raise SourceError(
                f"dataset.source: {dataset.source} has more than {dataset.max_rows:,} rows "
                f"(dataset.max_rows); read a slice such as dataset.split=train[:100000], or raise the "
                f"limit"
            )
        yield table


if __name__ == "__main__":
    confined(FetchJob, work)
