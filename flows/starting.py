"""What commands that run a flow begin with: their arguments, and a Prefect server for the run."""

import os
import signal
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from retune.disk_space import require_room_to_begin

if TYPE_CHECKING:
    from retune.recipe import Recipe

RecipeName = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A deployment of prefect.yaml, or a recipe.yaml.")
]
Settings = Annotated[
    list[str],
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change a setting; may be repeated."),
]


def require_host(recipe: "Recipe") -> None:
    """Refuse what this host cannot do or what its environment has wrong, before half a minute is spent
    on a server. The run itself asks again. Raises MachineUnfit, TrainingRefused, StoreError, BadLimit,
    ClusterError."""
    from flows.ray_cluster import on_cluster, require_cluster
    from retune.machine import require_machine
    from retune.store.sharing import require_store
    from tasks.train.hosts import of_run

    require_cluster()
    if not on_cluster():  # whose machines each look for themselves
        require_machine(recipe)
    of_run(recipe.training)
    require_store()


def start_prefect() -> None:
    """Let runs of this process find a Prefect server: one that is there, or a temporary one."""
    from flows import local, temporary_server

    local.configure()
    require_room_to_begin()
    obey_signals()
    server = None
    if not local.api_address():
        print("Starting a temporary Prefect server (up to half a minute)", file=sys.stderr)
        server = temporary_server.start()
    import flows.retrain  # noqa: F401  (takes seconds, in which the server comes up)

    local.be_patient()
    if server:
        _import_libraries()
        server.use()
        _close_what_was_left_open()
    local.quieten()


def obey_signals() -> None:
    """End in order where the system, a terminal that closes or a person says so: a training writes its
    checkpoint, the run says how to go on, and the exit code is a shell's for that signal."""

    def hang_up(_signal: int, _frame: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)  # which a flow that runs has its own way with

    def end(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, end)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup wants it
        signal.signal(signal.SIGHUP, hang_up)


def _close_what_was_left_open() -> None:
    """Close the runs that a killed process left open; their MLflow runs are continued."""
    from flows.dead_runs import TAKEN, close_dead_runs

    for name in close_dead_runs(TAKEN):
        print(f"Closed a run whose process is gone: {name}", file=sys.stderr)


def _import_libraries() -> None:
    """Import what every run needs, in seconds that a server needs as well to come up."""
    import great_expectations  # noqa: F401
    import mlflow

    from retune.tracking import tracking_uri

    if tracking_uri().startswith("sqlite:"):
        import mlflow.store.tracking.sqlalchemy_store  # noqa: F401
