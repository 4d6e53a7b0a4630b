"""The command `retune harvest`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retune.escaping import visible

if TYPE_CHECKING:
    from flows.harvesting.harvest import Harvested

_MOST_IDS = 20_000_000  # bytes of a file of ids


def harvest(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="mlflow:EXPERIMENT (its traces), or a file, a folder or a pattern of JSON lines in "
            "OpenAI's format.",
        ),
    ],
    into: Annotated[
        Path,
        typer.Argument(
            metavar="INTO", help="The folder of rows, which a recipe's dataset.source names."
        ),
    ],
    settings: Annotated[
        list[str],
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting; may be repeated."),
    ] = [],  # noqa: B006  (typer's form)
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", help="A YAML file with the settings. [harvest.yaml, if it is there]"
        ),
    ] = None,
    withdraw: Annotated[
        Path | None,
        typer.Option(
            "--withdraw",
            help="A file (- for standard input) with ids of users or traces, one on each line, whose "
            "rows leave and never come back.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be taken; write nothing.")
    ] = False,
) -> None:
    """Take rows from production: MLflow's traces since the last time, or logs, into a dataset.

    Only what has consent, is young enough and was not called bad is taken; edits replace answers, secrets
    and personal data are masked, and what is taken already is not taken twice.
    """
    from flows.harvesting.harvest import harvest as harvested
    from retune.harvesting.settings import Harvest

    rules = Harvest.load(config, settings)
    ids = _ids(withdraw) if withdraw else ()
    outcome = harvested(source, into, rules, ids, dry_run)
    for line in _lines(outcome, into, dry_run):
        print(line)


def _ids(path: Path) -> tuple[str, ...]:
    """Return the ids in a file, one on each line. Raises HarvestError."""
    from retune.harvesting.ledger import HarvestError

    if str(path) == "-":
        data = sys.stdin.buffer.read(_MOST_IDS + 1)
    else:
        with path.open("rb") as file:
            data = file.read(_MOST_IDS + 1)
    if len(data) > _MOST_IDS:
        raise HarvestError(f"--withdraw: {path} has more than {_MOST_IDS:,} bytes; split it")
    try:
        lines = data.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError:
        raise HarvestError(f"--withdraw: {path} is not UTF-8; save it as UTF-8") from None
    ids = tuple(line.strip() for line in lines if line.strip())
    if not ids:
        raise HarvestError(f"--withdraw: {path} has no id; write one on each line")
    return ids


def _lines(outcome: "Harvested", into: Path, dry_run: bool) -> list[str]:
    """Return what was done, for a terminal."""
    from flows.harvesting.harvest import LEAVING, REASONS

    width = len(f"{max([*outcome.records.values(), *outcome.left.values(), 0]):,}")

    def line(count: int, words: str) -> str:
        return f"{count:>{width + 2},}  {words}"

    told = [f"{sum(outcome.records.values()):,} records"]
    told += [
        line(outcome.records[reason], words + (_of_taken(outcome) if reason == "taken" else ""))
        for reason, words in REASONS.items()
        if outcome.records[reason] or reason == "taken"
    ]
    if outcome.left:
        told.append(f"{sum(outcome.left.values()):,} rows of earlier harvests leave")
        told += [line(outcome.left[why], LEAVING[why]) for why in LEAVING if outcome.left[why]]
    if outcome.unclear:
        told.append(
            f"{outcome.unclear:,} records have feedback of no known value (feedback_up, feedback_down)"
        )
    told += [f"  {visible(one.place)}: {visible(one.problem, 300)}" for one in outcome.unread]
    if outcome.records["unreadable"] > len(outcome.unread):
        told.append(f"  and {outcome.records['unreadable'] - len(outcome.unread):,} more")
    share = (
        f", {100 * outcome.own / outcome.rows:.0f} % of them self-generated" if outcome.rows else ""
    )
    if dry_run:
        return [*told, f"Nothing was written; there would be {outcome.rows:,} rows{share}."]
    if outcome.shard:
        told.append(f"New: {visible(into / outcome.shard)}")
    if outcome.rewritten:
        told.append(f"Rewritten without rows that leave: {', '.join(outcome.rewritten)}")
    return [*told, f"{visible(into)} has {outcome.rows:,} harvested rows{share}."]


def _of_taken(outcome: "Harvested") -> str:
    parts = ((outcome.edited, "edited by people"), (outcome.masked, "masked"))
    told = [f"{count:,} {words}" for count, words in parts if count]
    return f" ({', '.join(told)})" if told else ""
