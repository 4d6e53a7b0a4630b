"""The command line: `retune run`, `plan`, `validate`, `replay`, `compare` and the like, and the
registry's `promote`, `rollback`, `history`, `who-served`, `approve`, `reject`.

Heavy libraries load where they are used.
"""

import gc
import os
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer

from flows.calibrate_command import calibrate
from flows.compare import compare
from flows.full_disk import full_disk
from flows.gc_command import gc as gc_outputs
from flows.harvest_command import harvest
from flows.incident_commands import app as incident
from flows.join_command import join
from flows.notify_command import notify
from flows.registry_commands import approve, history, promote, reject, rollback, who_served
from flows.starting import RecipeName, Settings, require_host, start_prefect
from flows.status_command import status
from flows.suspects import suspects
from flows.trigger_commands import trigger, watch
from flows.upgrade_command import upgrade
from retune.access import ui_server
from retune.errors import TOLD_ERRORS
from retune.escaping import terminal, visible
from retune.home import home

# Exit codes. What a shell or a CI job asks is "was it good?"; that nobody could tell is another answer.
SAID_NO, NOT_DONE = 1, 2

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Re-train a language model on a schedule and ship only what passes its gates.",
    epilog="Exit code 0: done, or accepted; 1: a gate rejected what it judged (doctor: this machine has "
    "a problem); 2: it could not be done, for a mistake in a file, a recipe or the command, or "
    "because the Hub did not answer.",
)

DatasetName = Annotated[
    str,
    typer.Argument(
        metavar="DATASET",
        help="A dataset file (.jsonl, .parquet, …), a deployment or a recipe.yaml.",
    ),
]


def main() -> None:
    """Entry point. What a person can mend is one clear message; a fault of ours has its traceback."""
    # The libraries are millions of objects that stay: not to look through them every 700 objects makes
    # their import, which is most of a small command's time, quicker.
    gc.set_threshold(50_000, 20, 50)
    try:
        app()
    except Exception as raised:
        error = raised if isinstance(raised, TOLD_ERRORS) else full_disk(raised) or raised
        if not isinstance(error, TOLD_ERRORS) or os.environ.get("RETUNE_TRACEBACK"):
            traceback.print_exc()
        else:
            print(f"retune: {terminal(_sentence(error))}", file=sys.stderr)
        # Never 1 for a fault of ours either: a job would take that for a verdict.
        sys.exit(SAID_NO if _is_verdict(error) else NOT_DONE)


def _is_verdict(error: Exception) -> bool:
    """Tell whether a gate has rejected what it judged."""
    from expectations.verdicts import Rejected

    return isinstance(error, Rejected)


def _sentence(error: Exception) -> object:
    """Return what to tell of an error; the system's own come as a number, words and a path."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        words = error.strerror[0].lower() + error.strerror[1:]
        return f"{os.fspath(error.filename)}: {words}; correct the path, or what is there"
    return error


def _show_version(value: bool) -> None:
    if value:
        from retune.version import this_version

        print(f"retune {this_version()}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and end."
        ),
    ] = False,
) -> None:
    """Options of the program itself."""


def run(
    recipe: RecipeName,
    settings: Settings = [],  # noqa: B006  (typer's form)
    force: Annotated[
        bool,
        typer.Option("--force", help="Do the work though nothing has changed (schedule.force)."),
    ] = False,
) -> None:
    """Run the whole line on one recipe, in this process."""
    from flows.recipes import load

    forced = ["schedule.force=true"] if force else []
    wanted = load(recipe, [*settings, *forced])
    require_host(wanted)
    start_prefect()
    from flows.retrain import retrain

    summary = retrain(**dict(wanted))
    from rich import print as show

    show(summary.rich())
    print(f"\nEverything is in MLflow as run {summary.run_id}.")
    from flows.described import addresses

    for line in addresses(summary.run_id):
        print(line)
    print(
        f"Look further: `make ui` opens Prefect and MLflow; the files lie below {home() / 'work'}."
    )


def plan(recipe: RecipeName, settings: Settings = []) -> None:  # noqa: B006
    """Show what a run would do, what it would reuse, and what it needs. Touches nothing."""
    from rich import print as show

    from flows.forecast import forecast
    from flows.recipes import load

    show(forecast(load(recipe, settings)).rich())


def validate(
    dataset: DatasetName,
    settings: Settings = [],  # noqa: B006
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the report: new, empty, or of an earlier report, which is replaced. "
            "[.retune/validate/NAME]"
        ),
    ] = None,
) -> None:
    """Judge a dataset by the data gate alone; no server, and no network for a file.

    Exit code 0: accepted; 1: rejected; 2: it could not be judged (file, recipe, Hub).
    """
    from flows import local
    from flows.check import check, shown
    from retune.report_folder import report_folder, require_ours

    folder = (out or report_folder(dataset)).resolve()
    require_ours(folder)
    local.configure_home()
    from rich import print as show

    report = check(dataset, settings, folder)
    show(shown(report))
    print(f"Report: {visible(folder / 'report.html')} (and the quarantine, beside it)")
    if report.failed:  # each is in the table
        print(f"retune: {terminal(report.judgement().headline)}", file=sys.stderr)
        sys.exit(SAID_NO)


def scaffold_suite(
    dataset: DatasetName,
    settings: Settings = [],  # noqa: B006
    profile: Annotated[
        Path | None,
        typer.Option(help="File for its profile, which later datasets are compared with."),
    ] = None,
) -> None:
    """Print the thresholds for a recipe, taken from a dataset that is known to be good."""
    from flows import local
    from flows.check import scaffold

    local.configure_home()
    print(scaffold(dataset, settings, profile), end="")


def replay(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A run: its id or name, RECIPE@champion, latest.")
    ],
) -> None:
    """Make a run once more from what MLflow keeps of it, and compare what comes out.

    Everything is made anew, in a folder of its own, and nothing is published or promoted. Exit code
    0: the same adapter, or measures within the recipe's noise; 1: beyond it; 2: it could not be done,
    or nobody knows what is noise.
    """
    from flows import local

    local.configure()
    from retune.registry import find

    run_id = find(run)
    start_prefect()
    from flows.replay import replay as replayed

    result = replayed(run_id)
    from rich import print as show

    for grid in result.grids:
        show("", grid.rich())
    print(
        f"\n{result.outcome}: {visible(result.sentence)}.\nThe replay is MLflow's run {result.run_id}."
    )
    if result.outcome in ("different", "unknown"):
        sys.exit(SAID_NO if result.outcome == "different" else NOT_DONE)


def doctor() -> None:
    """Check this machine; each problem comes with its fix."""
    from rich import print as show
    from rich.table import Table
    from rich.text import Text

    from flows.ray_cluster import check_cluster
    from retune.preflight import checks

    marks = {True: "[green]ok[/]", False: "[red]problem[/]", None: "[yellow]note[/]"}
    table = Table(box=None, show_header=False)
    results = [*checks(), check_cluster()]
    for check in results:
        table.add_row(marks[check.ok], check.name, Text(visible(check.state)))
        if check.fix and not check.ok:
            table.add_row("", "", Text(visible(f"→ {check.fix}")))
    show(table)
    if any(check.ok is False for check in results):
        sys.exit(SAID_NO)


PrefectPort = Annotated[int, typer.Option(help="Port of Prefect's UI.")]
MlflowPort = Annotated[int, typer.Option(help="Port of MLflow's UI.")]
WatchCron = Annotated[
    str | None, typer.Option(help="When to run `retune watch`, e.g. '*/10 * * * *'.")
]
GcCron = Annotated[str | None, typer.Option(help="When to run `retune gc`, e.g. '0 4 * * *'.")]
GcDelete = Annotated[
    bool, typer.Option("--gc-delete", help="It removes what it finds; else it only tells.")
]


def ui(
    prefect_port: PrefectPort = 4200,
    mlflow_port: MlflowPort = 5000,
    mlflow_sign_in: Annotated[
        bool,
        typer.Option(
            "--mlflow-sign-in", help="MLflow asks for a password, as it does beside other users."
        ),
    ] = False,
    watch_cron: WatchCron = None,
    gc_cron: GcCron = None,
    gc_delete: GcDelete = False,
) -> None:
    """Serve Prefect's and MLflow's UIs on loopback, with the deployments ready to be run.

    A server or worker that dies is started again; a run that is interrupted goes on from what it has
    finished, RETUNE_ATTEMPTS (3) times in all.
    """
    from flows.chores import chores
    from flows.ui import serve

    serve(prefect_port, mlflow_port, mlflow_sign_in, chores(watch_cron, gc_cron, gc_delete))


def operate(
    prefect_port: PrefectPort = 4200,
    mlflow_port: MlflowPort = 5000,
    watch_cron: WatchCron = None,
    gc_cron: GcCron = None,
    gc_delete: GcDelete = False,
) -> None:
    """Work unattended: as `ui`; beside a Prefect server of your own only its worker and the watchdog.

    SIGTERM, as `systemctl stop` sends it, lets a run at work write its checkpoint.
    """
    from flows import local
    from flows.chores import chores
    from flows.ui import serve, work

    wanted = chores(watch_cron, gc_cron, gc_delete)
    local.configure()
    if local.api_address() and not ui_server():
        work(wanted)
    else:
        serve(prefect_port, mlflow_port, False, wanted)


def worker(
    pool: Annotated[str, typer.Option(help="Prefect work pool.")] = "retune",
    limit: Annotated[int, typer.Option(min=1, help="Runs at a time.")] = 1,
    healthcheck: Annotated[
        bool, typer.Option("--healthcheck", help="Answer /health on the worker's own port.")
    ] = False,
) -> None:
    """Work for a Prefect server; told to end, wait until runs have written their checkpoints."""
    from flows.worker import work

    sys.exit(work(pool, limit, healthcheck))


DATA = "Data"
# As `retune --help` lists them.
COMMANDS = {
    "Runs": (plan, run, replay, compare, suspects, calibrate),
    DATA: (validate, scaffold_suite, harvest),
    "Which version serves": (approve, reject, promote, rollback, history, who_served),
    "Unattended": (ui, operate, worker, join, watch, trigger, notify, status, gc_outputs),
    "This machine and its packages": (doctor, upgrade),
}
for panel, commands in COMMANDS.items():
    for command in commands:
        app.command(rich_help_panel=panel)(command)
app.add_typer(incident, name="incident", rich_help_panel=DATA)


if __name__ == "__main__":
    main()
