"""Fetching as every run does it: pinned, and in children that confine what a hostile source can do.

The first child has the Hub's token and the network, and opens nothing that it downloads but the
repository's card; the second has neither, and opens everything.
"""

from pathlib import Path

from retune.confined import limits, run_confined
from retune.recipe import Dataset
from retune.sources import unchanged
from tasks.fetch.child import FetchJob
from tasks.fetch.hub import Files
from tasks.fetch.reading import local_files

CHILD = Path(__file__).with_name("child.py")


def fetch_rows(dataset: Dataset, pin: str, folder: Path) -> int:
    """Read a dataset at its pinned version into `folder/rows.parquet`; returns how many rows it has.

    `folder` also gets `fetch.log` and, for the time being, `cache`. Raises SourceError if the source
    cannot be read, is empty, costs more than the recipe allows, or is not what was pinned;
    ConnectionError when the Hub does not answer.
    """
    commit = None if pin.startswith("sha256:") else pin
    job = FetchJob(
        dataset=dataset,
        commit=commit,
        cache=folder / "cache",
        rows=folder / "rows.parquet",
        **limits(dataset),
    )
    log, subject = folder / "fetch.log", f"dataset.source: {dataset.source}"
    files = local_files(dataset)
    if not files:
        event = run_confined(CHILD, job, log, subject, network=True)
        files = Files.model_validate(event["files"])
    job = job.model_copy(update={"files": files})
    with unchanged(dataset.source, pin, "dataset.source"):
        return run_confined(CHILD, job, log, subject)["rows"]
