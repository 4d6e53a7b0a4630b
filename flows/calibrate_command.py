"""The command `retune calibrate`."""

from typing import Annotated

import typer

RecipeArgument = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A deployment of prefect.yaml, or a recipe.yaml.")
]


def calibrate(
    recipe: RecipeArgument,
    replicas: Annotated[
        int, typer.Option(min=3, max=100, help="Trainings that differ by seed and order alone.")
    ] = 5,
    share: Annotated[
        float, typer.Option(min=0.001, max=1.0, help="Share of the training that each one gets.")
    ] = 0.25,
    settings: Annotated[
        list[str],
        typer.Option(
            "--set", metavar="SECTION.KEY=VALUE", help="Change a setting; may be repeated."
        ),
    ] = [],  # noqa: B006  (typer's form)
) -> None:
    """Measure how far trainings of a recipe are apart by chance; margins may be multiples of it."""
    from rich import print as show

    from flows import local, temporary_server
    from flows.recipes import load

    parameters = load(recipe, settings).model_dump()
    local.configure()
    server = None if local.api_address() else temporary_server.start()
    from flows.calibrate import calibrate_noise, grid

    if server:
        server.use()
    local.quieten()
    noise = calibrate_noise(parameters, replicas, share)
    show(grid(noise, replicas, share).rich())
    print("Kept in MLflow; margins such as 2σ in promotion.margins are multiples of it.")
