"""The commands `retune incident add`, `list` and `remove`."""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from retune.escaping import visible

app = typer.Typer(
    no_args_is_help=True,
    help="Answers that went wrong, as cases that every later candidate must pass.",
)

RecipeOption = Annotated[
    str | None,
    typer.Option("--recipe", metavar="RECIPE", help="The recipe whose file of incidents it is."),
]
FileOption = Annotated[
    Path | None, typer.Option("--file", help="The file of incidents itself, instead of a recipe.")
]


@app.command()
def add(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A JSON or JSONL file with the conversation, the id of an MLflow trace (tr-…), or - for "
            "standard input. An answer at its end is taken for the one that went wrong.",
        ),
    ],
    must: Annotated[
        list[str], typer.Option("--must", help="Text that the answer must hold; may be repeated.")
    ] = [],  # noqa: B006  (typer's form)
    must_not: Annotated[
        list[str],
        typer.Option("--must-not", help="Text that it must not hold; may be repeated."),
    ] = [],  # noqa: B006
    matches: Annotated[
        str, typer.Option("--matches", help="Pattern that it must match, in Rust's syntax.")
    ] = "",
    recipe: RecipeOption = None,
    file: FileOption = None,
    row: Annotated[
        int | None, typer.Option("--row", help="Which row of a file with several, from 0.")
    ] = None,
    reason: Annotated[
        str, typer.Option("--reason", help="Why it was wrong; verdicts say it.")
    ] = "",
) -> None:
    """Add the case of an answer that went wrong to a file of incidents.

    Case does not matter to --must and --must-not. Passwords and keys are refused.
    """
    from flows.incidents import conversation, hidden_elsewhere, require_no_secrets
    from flows.registry_commands import who
    from retune.suites.incidents import Demand, NoIncident, add_incident, incident
    from retune.suites.probes import IncidentNote

    path = _file(recipe, file)
    if len(reason) > 500:
        raise NoIncident(f"--reason has {len(reason):,} characters; say it in 500")
    asked = conversation(source, row)
    note = IncidentNote(
        answer=asked.answer,
        reason=reason,
        added=f"{datetime.now(UTC):%Y-%m-%d}",
        by=who(),
        source="standard input" if source == "-" else Path(source).name,
    )
    case = incident(asked.messages, asked.tools, Demand(must, must_not, matches), note)
    require_no_secrets(case)
    for place in hidden_elsewhere(case):
        print(
            f"retune: {place} seems to hold a person's data, which reports mask and the file does not; "
            f"put invented data in its place if it must not",
            file=sys.stderr,
        )
    add_incident(path, case)
    print(f"{case.id} is in {visible(path)}; keep the file under version control.")


@app.command("list")
def list_cases(recipe: RecipeOption = None, file: FileOption = None) -> None:
    """Show the incidents of a recipe or file: what was asked, what is demanded, and why."""
    from rich import print as show
    from rich.table import Table
    from rich.text import Text

    from retune.suites.incidents import read_incidents

    path = _file(recipe, file)
    cases = read_incidents(path)
    if not cases:
        print(f"{visible(path)} has no incident.")
        return
    table = Table(box=None, pad_edge=False)
    for head in ("id", "asked", "demanded", "why", "added"):
        table.add_column(head, overflow="fold")
    for case in cases:
        note = case.incident
        cells = (
            case.id or case.example,
            f"{case.chat[-1]['content']:.200}",
            "; ".join(map(_demanded, case.grading)),
            note.reason if note else "",
            f"{note.added} {note.by}" if note else "",
        )
        table.add_row(*(Text(visible(cell)) for cell in cells))
    show(table)


def _demanded(grader: dict[str, Any]) -> str:
    """Return what a grader demands in few words: `not_contains "for ever"`."""
    values = [value for key, value in grader.items() if key not in ("type", "ignore_case", "all")]
    flat = [one for value in values for one in (value if isinstance(value, list) else [value])]
    return f"{grader['type']} {', '.join(json.dumps(one, ensure_ascii=False) for one in flat)}"


@app.command()
def remove(
    name: Annotated[str, typer.Argument(metavar="ID", help="The case's id, as `list` shows it.")],
    recipe: RecipeOption = None,
    file: FileOption = None,
) -> None:
    """Remove a case; later candidates need not pass it."""
    from retune.suites.incidents import remove_incident

    path = _file(recipe, file)
    remove_incident(path, name)
    print(f"{visible(name)} is not in {visible(path)} any more.")


def _file(recipe: str | None, file: Path | None) -> Path:
    """Return the file of incidents."""
    from flows.recipes import load
    from retune.suites.incidents import NoIncident, incidents_file

    if (recipe is None) == (file is None):
        raise NoIncident(
            "say where incidents are kept: --recipe RECIPE, or --file FILE, one of them"
        )
    return file.expanduser() if file else incidents_file(load(str(recipe), []))
