"""Fetching as every run does it: pinned, and in children that confine what a hostile source can do.

The first child has the Hub's token and the network, and opens nothing that it downloads but the
repository's card; the second has neither, and opens everything. What is at an address was copied when
it was pinned (`retune.downloads`).
"""

from collections.abc import Callable
from pathlib import Path

from retune.confined import limits, run_confined
from retune.ignored import Ignored
from retune.pinning import local_selection, of_part, unchanged_files
from retune.recipe import Dataset
from retune.sources import changed
from tasks.fetch.child import FetchJob
from tasks.fetch.hub import Files
from tasks.fetch.mixing import mixed

CHILD = Path(__file__).with_name("child.py")
ROWS = "rows.parquet"


def fetch_rows(
    dataset: Dataset,
    pin: str,
    folder: Path,
    mix: tuple[str, ...] = (),
    say: Callable[[str], None] = lambda _sentence: None,
) -> int:
    """Read a dataset at its pinned version into `folder/rows.parquet`; returns how many rows it has.

    `mix` are the pins of its parts, if it is a mix; `say` is told of one with fewer rows than are to be
    taken. `folder` also gets `fetch.log` and, for the time
    being, `cache`. Raises SourceError if the source cannot be read, is empty, costs more than the recipe
    allows, or is not what was pinned; ConnectionError when the Hub does not answer.
    """
    if not dataset.mix:
        return _fetched(dataset, dataset.source, pin, folder / ROWS, folder)
    files = []
    for number, (part, name) in enumerate(zip(dataset.parts, dataset.names, strict=True)):
        files.append(folder / "cache" / "parts" / str(number) / ROWS)
        files[-1].parent.mkdir(parents=True, exist_ok=True)
        with of_part(number, dataset):
            count = _fetched(part, name, mix[number], files[-1], folder)
        wanted = dataset.mix[number].rows
        if wanted and wanted > count:
            say(
                f"dataset.mix.{number}.rows: {name} has {count:,} rows, not {wanted:,}; all are taken"
            )
    Ignored.joined(map(Ignored.beside, files)).write(folder)
    return mixed(dataset, files, folder / ROWS)


def _fetched(dataset: Dataset, name: str, pin: str, rows: Path, folder: Path) -> int:
    """Read one dataset into a Parquet file; rows that name no source get `name`.

    Beside it stands what is not used of the source; the log is in `folder`.
    """
    commit = None if pin.startswith("sha256:") else pin
    job = FetchJob(
        dataset=dataset,
        name=name,
        commit=commit,
        cache=rows.parent / "cache",
        rows=rows,
        **limits(dataset),
    )
    log, subject = folder / "fetch.log", f"dataset.source: {dataset.source}"
    selection = local_selection(dataset, pin)
    if (selection is None) == (
        commit is None
    ):  # what was on the Hub is a folder now, or vice versa
        raise changed(dataset.source, "dataset.source")
    if selection:
        files = Files(kind=selection.kind, paths=selection.paths)
    else:
        event = run_confined(CHILD, job, log, subject, network=True)
        files = Files.model_validate(event["files"])
    job = job.model_copy(update={"files": files})
    with unchanged_files(dataset, selection, pin):
        return run_confined(CHILD, job, log, subject)["rows"]
