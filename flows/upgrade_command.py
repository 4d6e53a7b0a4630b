"""`retune upgrade`: says whether the project may take a new lock."""

import sys
from pathlib import Path
from typing import Annotated

import typer

SAID_NO = 1


def upgrade(
    check: Annotated[
        Path, typer.Option(metavar="NEW.lock", exists=True, dir_okay=False, help="The new lock.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="File for the result. [the lock's name with .upgrade.json]"),
    ] = None,
    accept: Annotated[
        str,
        typer.Option(metavar="REASON", help="Why what differs is right; it is kept in the result."),
    ] = "",
) -> None:
    """Train a small probe in this environment and in a new lock's, and compare; changes no package here.

    What is compared: tokens, mask, losses, measures, merge, answers, speed. Exit code 0: the same, or
    accepted; 1: it differs, and the packages that make the difference are named; 2: it could not be done.
    """
    from flows.upgrading.upgrade import check as checked
    from retune.files import write_whole

    result = checked(check, accept)
    path = out or check.with_name(f"{check.name}.upgrade.json")
    write_whole(path, result.model_dump_json(indent=2) + "\n")
    from rich import print as show
    from rich.table import Table
    from rich.text import Text

    table = Table("", "", "this environment", "the lock's", box=None)
    for thing in result.compared:
        mark = "[green]same[/]" if thing.same else "[red]differs[/]"
        table.add_row(mark, thing.subject, Text(thing.old), Text(thing.new))
    show(table)
    print(f"{len(result.changes)} packages are other ones.")
    for culprit in result.culprits:
        print(f"It is {culprit} that makes the difference.")
    print(f"Result: {path}")
    if not result.may_rise:
        sys.exit(SAID_NO)
