"""`retune compare`: what differs between runs, on the terminal, as JSON, and as a page in MLflow."""

import json
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retune.errors import RetuneError
from retune.escaping import visible

if TYPE_CHECKING:
    from flows.compared.records import Comparison

FOLDER = "compare"  # of a run's artifacts


class NotComparable(RetuneError):
    """Runs that cannot be compared."""


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN RUN …",
            help="Two or more runs: ids, names, RECIPE@champion, RECIPE/3, RECIPE@latest, latest.",
        ),
    ],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON (see docs/operate.md) and no tables.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the pages. [.retune/compare]"),
    ] = None,
) -> None:
    """Tell what differs between runs: recipe, data, environment, measures, answers, files.

    Of more than two, each is compared with the one that began before it.
    """
    from flows import local

    local.configure()
    found = comparisons(runs)
    pages = [keep(comparison, out) for comparison in found]
    if as_json:
        print(json.dumps([one.model_dump(mode="json") for one in found], indent=1))
        return
    _show(found, pages)


def comparisons(references: list[str]) -> "list[Comparison]":
    """Return the comparison of each run with the one that began before it, the oldest first.

    Raises NotComparable for fewer than two different runs.
    """
    from flows.compared.comparison import compare as compare_pair
    from retune.registry import find
    from retune.tracking import client

    ids = list(dict.fromkeys(map(find, references)))
    if len(ids) < 2:
        named = ", ".join(visible(reference, 80) for reference in references)
        raise NotComparable(f"{named}: that is one run; name two or more different ones")
    ids.sort(key=lambda run_id: client().get_run(run_id).info.start_time)
    return [compare_pair(*pair) for pair in pairwise(ids)]


def keep(comparison: "Comparison", out: Path | None) -> Path:
    """Write the page of a comparison into the folder `out`, and to the newer run in MLflow."""
    from flows.compared.page import page
    from retune.files import write_whole
    from retune.home import home
    from retune.tracking import client

    older, newer = comparison.older.id, comparison.newer.id
    text = page(comparison)
    folder = out or home() / "compare"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{newer[:8]}-{older[:8]}.html"
    write_whole(path, text)
    client().log_text(newer, text, f"{FOLDER}/{older}.html")
    return path


def _show(found: "list[Comparison]", pages: list[Path]) -> None:
    from rich import print as show

    from flows.compared.terminal import rich
    from retune.pages import mlflow_pages

    for comparison, path in zip(found, pages, strict=True):
        show(rich(comparison))
        where = f"artifact {FOLDER}/{comparison.older.id}.html of run {comparison.newer.id[:8]}"
        address = mlflow_pages()
        print(f"Page: {visible(path)} (in MLflow: {where}{f', {address}' if address else ''})")
