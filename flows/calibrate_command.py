"""The command `retune calibrate`."""

from typing import Annotated

import typer

from flows.starting import RecipeName, Settings, start_prefect


def calibrate(
    recipe: RecipeName,
    replicas: Annotated[
        int, typer.Option(min=3, max=100, help="Trainings that differ by seed and order alone.")
    ] = 5,
    share: Annotated[
        float, typer.Option(min=0.001, max=1.0, help="Share of the training that each one gets.")
    ] = 0.25,
    settings: Settings = [],  # noqa: B006  (typer's form)
) -> None:
    """Measure how far trainings of a recipe are apart by chance; margins may be multiples of it."""
    from rich import print as show

    from flows.recipes import load

    parameters = load(recipe, settings).model_dump()
    start_prefect()
    from flows.calibrate import calibrate_noise, grid

    noise = calibrate_noise(parameters, replicas, share)
    show(grid(noise, replicas, share).rich())
    print("Kept in MLflow; margins such as 2σ in promotion.margins are multiples of it.")
