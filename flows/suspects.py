"""`retune suspects`: the training rows that speak most for what a run's model lost to another.

What was lost is in `flows.influence.lost`; what the score of a row is, and which sign is suspect, in
`flows.influence.child`.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retune.errors import RetuneError
from retune.escaping import visible

if TYPE_CHECKING:
    from flows.influence.ranking import SuspectRows

FILE = "suspects.json"  # artifact of the run


class NotWritable(RetuneError):
    """A file that would take the place of another, or has no folder."""


def suspects(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A run: its id or name, RECIPE@champion, latest.")
    ],
    against: Annotated[
        str,
        typer.Option(
            metavar="RUN|base|champion",
            help="What was better: another run, the base, or the champion of that day. [the "
            "champion if the run was compared with one, else the base]",
        ),
    ] = "",
    limit: Annotated[int, typer.Option(min=1, help="Suspect rows, at most.")] = 50,
    above: Annotated[
        float, typer.Option(min=0, max=1, help="A row is suspect with a score over this.")
    ] = 0.1,
    rows: Annotated[
        int, typer.Option(min=1, help="Training rows to compare, chosen by their content.")
    ] = 4000,
    drop: Annotated[
        Path | None,
        typer.Option(metavar="OUT.jsonl", help="Write the accepted rows without the suspects."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and no table.")] = False,
) -> None:
    """Rank training rows by how much they speak for what a run's model got wrong.

    A hint where to look: gradients of the adapter for each row are compared with those of the
    examples that were lost.
    """
    from flows import local

    local.configure()
    from flows.influence.ranking import ranked
    from retune.registry import find

    _require_new(drop)
    run_id = find(run)
    found, sound = ranked(run_id, against, limit, above, rows)
    keep(run_id, found)
    if as_json:
        print(found.model_dump_json(indent=1))
    else:
        _show(found)
    if drop:
        _drop(found, sound, drop)


def keep(run_id: str, found: "SuspectRows") -> None:
    """Keep the list as an artifact of the run; it replaces an earlier one."""
    from retune.tracking import client

    client().log_text(run_id, found.model_dump_json(indent=1), FILE)


def _show(found: "SuspectRows") -> None:
    from rich import print as show

    from flows.influence.ranking import SHOWN

    show(found.grid().rich())
    more = len(found.rows) - SHOWN
    print(
        f"\n{len(found.rows):,} of {found.compared:,} rows compared (of {found.trained:,}) have a "
        f"score over {found.above:g}"
        + (f"; {more:,} more of them are in MLflow's {FILE}" if more > 0 else "")
        + "."
    )


def _require_new(drop: Path | None) -> None:
    if drop and (drop.exists() or not drop.absolute().parent.is_dir()):
        wrong = "is there already" if drop.exists() else "would lie in a folder that is not there"
        raise NotWritable(f"--drop {visible(drop)}: it {wrong}; name a new file")


def _drop(found: "SuspectRows", sound: Path, out: Path) -> None:
    """Write the dataset without the suspects, and say how many there are of each."""
    from flows.influence.dropping import write_without

    written = write_without(sound, {one.row for one in found.rows}, out.absolute())
    print(
        f"{visible(out)}: {written:,} rows, without the {len(found.rows):,} suspects.",
        file=sys.stderr,  # JSON alone is read by programs
    )
