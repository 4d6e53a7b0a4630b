"""What MLflow keeps of a run, as files."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from retune.temporary import temporary_folder
from retune.tracking import download

if TYPE_CHECKING:
    import polars as pl


@contextmanager
def artifact(run_id: str, path: str) -> Iterator[Path | None]:
    """Give a copy of an artifact of a run, None if the run has no such artifact."""
    with temporary_folder() as target:
        yield download(run_id, path, target)


def table(run_id: str, path: str) -> "pl.DataFrame | None":
    """Return a Parquet artifact of a run, None if the run has no such artifact."""
    import polars as pl

    with artifact(run_id, path) as file:
        return pl.read_parquet(file) if file else None
