"""The noise of training: how far two replicas of a recipe are apart that differ by seed and order alone.

It is kept in MLflow, as the tag of a run of the recipe's experiment, by what it holds for: the
recipe's name, its base, and the examples that models are evaluated by (not the training data, which
is another one every night).
"""

import json
from collections.abc import Mapping, Sequence
from math import sqrt
from pathlib import Path
from statistics import stdev

from retune.files import digest
from retune.outcomes import averaged, of_side, read_grades
from retune.recipe import Recipe
from retune.records import Pins
from retune.tracking import Run, client, newest_run

KEY, NOISE = "retune.calibration", "retune.noise"  # tags
FEWEST = 3  # replicas of which a standard deviation says anything
# What of the evaluation says which examples there are, and how they are answered.
_EXAMPLES = ("loss_rows", "generation_rows", "max_new_tokens", "battery", "battery_rows")


def key(recipe: Recipe, pins: Pins) -> str:
    """Return what identifies what a calibration holds for.

    A suite counts by its content, wherever it lies; of incidents, whose files grow with every one, no
    statistics are asked.
    """
    config = recipe.evaluation
    examples = [getattr(config, name) for name in _EXAMPLES]
    suites: list[list[object]] = [
        [suite.name, suite.max_new_tokens, pin]
        for suite, pin in zip(
            config.suites, pins.suites, strict=False
        )  # the incidents are the last
    ]
    suites += [
        [task.name, task.few_shot, task.rows, pin.version]
        for task, pin in zip(config.tasks, pins.tasks, strict=False)
    ]
    return digest(
        [recipe.name, pins.model, recipe.training.method, examples, sorted(suites, key=str)]
    )


def stored_noise(recipe: Recipe, pins: Pins) -> dict[str, float]:
    """Return the calibrated noise by metric (`held_out/loss`), empty if nobody has calibrated: the
    standard deviation of the difference of two replicas."""
    run = newest_run(recipe, f"tags.`{KEY}` = '{key(recipe, pins)}'")
    if run is None:
        return {}
    return {
        name: float(value)
        for name, value in json.loads(client().get_run(run).data.tags[NOISE]).items()
    }


def store_noise(run: Run, recipe: Recipe, pins: Pins, noise: Mapping[str, float]) -> None:
    """Keep a calibration; later runs of the recipe find it. `NOISE` comes first: it is there for
    whoever finds the other."""
    run.set_tags({NOISE: json.dumps(noise)})
    run.set_tags({KEY: key(recipe, pins)})


def noise_of(replicas: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the standard deviation of the difference of two replicas, of the means of at least
    FEWEST of them: √2 times that of one."""
    assert len(replicas) >= FEWEST, "asked of the command line"
    names = set.intersection(*map(set, replicas))
    return {name: sqrt(2) * stdev(replica[name] for replica in replicas) for name in sorted(names)}


def means(outcomes: Path, side: str) -> dict[str, float]:
    """Return the weighted mean of each metric of a file of outcomes, by suite and scorer, and of each of
    its slices (`held_out/loss@mail`); an example that occurs several times counts once."""
    import polars as pl

    once = averaged(of_side(read_grades(outcomes), side).filter(pl.col("value").is_finite()))
    mean = (pl.col("value") * pl.col("weight")).sum() / pl.col("weight").sum()
    whole = once.group_by("suite", "scorer").agg(mean=mean)
    parts = once.group_by("suite", "scorer", "slice").agg(mean=mean)
    return {f"{suite}/{scorer}": value for suite, scorer, value in whole.iter_rows()} | {
        f"{suite}/{scorer}@{name}": value for suite, scorer, name, value in parts.iter_rows()
    }
