"""A stage that a test has Ray place: a real one, whose child counts instead of training."""

import os
from pathlib import Path

from retune.building import building
from retune.child import run_child
from retune.outputs import Output, Step
from retune.recipe import Recipe
from retune.records import Pins
from retune.store.checkpoints import kept
from tasks.stage import stage
from tests.flows.counting_child import SEAL, Count

CHILD = Path(__file__).with_name("counting_child.py")
STEP = Step(stage="train", key={"of": "a test"})  # by its name it needs a GPU
LOG = "steps.jsonl"


@stage(name="train")
def count(recipe: Recipe, pins: Pins, step: Step) -> Output:
    """Count to the recipe's number of steps, from the last checkpoint on."""
    with building(step, keep_partial=True) as build:
        checkpoints = build.path / "checkpoints"
        job = Count(folder=checkpoints, log=build.path / LOG, steps=recipe.training.max_steps or 0)
        with kept(step.name, checkpoints, SEAL, (LOG,)):
            run_child(CHILD, job, build.path / "train.log", grace=60)
        return build.finish(Output, params={"home": os.environ["RETUNE_HOME"]})
