"""What commands that run a flow begin with: their arguments, and a Prefect server for the run."""

import sys
from typing import Annotated

import typer

RecipeName = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A deployment of prefect.yaml, or a recipe.yaml.")
]
Settings = Annotated[
    list[str],
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change a setting; may be repeated."),
]


def start_prefect() -> None:
    """Let runs of this process find a Prefect server: one that is there, or a temporary one."""
    from flows import local, temporary_server

    local.configure()
    server = None
    if not local.api_address():
        print("Starting a temporary Prefect server (up to half a minute)", file=sys.stderr)
        server = temporary_server.start()
    import flows.retrain  # noqa: F401  (takes seconds, in which the server comes up)

    if server:
        _import_libraries()
        server.use()
    local.quieten()


def _import_libraries() -> None:
    """Import what every run needs, in seconds that a server needs as well to come up."""
    import great_expectations  # noqa: F401
    import mlflow

    from retune.tracking import tracking_uri

    if tracking_uri().startswith("sqlite:"):
        import mlflow.store.tracking.sqlalchemy_store  # noqa: F401
