"""What determines the outputs of evaluate and champion."""

from typing import Any

from retune.outputs import Step
from retune.recipe import Recipe
from retune.records import Champion, Pins

LIMITS = {"max_loss_ratio"}
RUNNING = {"batch_size", "samples"}  # how many at a time, and how many are shown
JUDGING = {"judge"}  # of answers that are there


def key(recipe: Recipe, pins: Pins, adapter: Step, selection: Step | None) -> dict[str, Any]:
    """Return the settings and inputs of evaluate; those of the weights are the selection's."""
    return {
        "adapter": adapter.fingerprint,
        "selection": selection and selection.fingerprint,
        **_asked(recipe, pins),
    }


def champion(recipe: Recipe, pins: Pins, champion: Champion, formatted: Step) -> dict[str, Any]:
    """Return the settings and inputs of champion: its weights, and what it is asked. A version that is
    registered again with the same weights is the same."""
    return {
        "weights": champion.model_dump(mode="json", exclude={"version", "run_id", "anchor"}),
        "formatted": formatted.fingerprint,
        "max_length": recipe.model.max_length,
        "train_on": recipe.training.train_on,
        **_asked(recipe, pins),
    }


def _asked(recipe: Recipe, pins: Pins) -> dict[str, Any]:
    """Return what decides what is asked. A suite counts by its content, wherever it lies."""
    config = recipe.evaluation
    suites = [
        suite.model_dump(include={"name", "max_new_tokens"}) | {"pin": version}
        for suite, version in zip(config.probe_files, pins.suites, strict=True)
    ]
    own = LIMITS | RUNNING | JUDGING | {"suites", "incidents", "tasks"}
    return config.model_dump(exclude=own) | {"suites": suites} | _tasks(recipe, pins)


def _tasks(recipe: Recipe, pins: Pins) -> dict[str, Any]:
    """Return what lm-eval is asked, if anything: by name, its settings and the versions in its pin."""
    tasks = [
        task.model_dump(include={"name", "task", "few_shot", "rows"}) | {"pin": version.version}
        for task, version in zip(recipe.evaluation.tasks, pins.tasks, strict=True)
    ]
    return {"tasks": tasks} if tasks else {}
