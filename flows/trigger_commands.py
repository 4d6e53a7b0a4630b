"""The commands `retune watch` and `retune trigger`."""

from typing import Annotated

import typer

from retune.escaping import visible


def watch() -> None:
    """Look once whether what the deployments watch has changed, and start the runs that are due.

    For cron, or `--watch-cron` of `retune ui` and `retune operate`. What each recipe watches
    is `schedule.triggers`.
    """
    _use_server()
    from flows.recipes import deployments
    from flows.triggers import watch as look
    from retune.recipe import Recipe

    recipes = {name: Recipe.parse(given, name) for name, given in deployments().items()}
    outcomes = look(recipes)
    for outcome in outcomes:
        print(visible(f"{outcome.recipe}: {outcome.outcome}: {outcome.reason}"))
    if not outcomes:
        print("No deployment watches anything: set schedule.triggers, e.g. [dataset, model].")


def trigger(
    deployment: Annotated[
        str, typer.Argument(metavar="DEPLOYMENT", help="A deployment of prefect.yaml.")
    ],
    reason: Annotated[str, typer.Option("--reason", help="Why, in a few words; Prefect keeps it.")],
    force: Annotated[
        bool,
        typer.Option("--force", help="Also within the cooldown, and though nothing has changed."),
    ] = False,
) -> None:
    """Start a run of a deployment on the server, for what another program has seen.

    It waits for no cooldown only with --force; a run that waits already takes it in. Automations of
    Prefect see the event retune.trigger.
    """
    from flows.recipes import load

    recipe = load(deployment, [])
    _use_server()
    from flows.triggers import trigger as start

    outcome = start(deployment, recipe, reason[:500], force)
    print(visible(f"{outcome.recipe}: {outcome.outcome}: {outcome.reason}"))


def _use_server() -> None:
    """Use the Prefect server that runs are started on. Raises NoServer if there is none."""
    from flows import local

    local.configure()
    local.require_server("runs are started on a Prefect server")
