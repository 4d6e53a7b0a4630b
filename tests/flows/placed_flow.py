"""A flow with one stage, in a process that a test starts: `python -m tests.flows.placed_flow STEPS`."""

import json
import sys

from prefect import flow

from flows.cluster import placed
from flows.ray_cluster import require_cluster
from retune.recipe import Recipe
from retune.records import Pins
from tests.flows.placed_stage import STEP, count


@flow(name="placed")
def line(steps: int) -> None:
    recipe = Recipe.parse(
        {
            "name": "placed",
            "model": {"base": "b", "load_in_4bit": False},
            "dataset": {"source": "d"},
            "training": {"max_steps": steps, "optimizer": "adamw_torch"},
        }
    )
    require_cluster()
    try:
        with placed():
            made = count(recipe, Pins(dataset="d", model="m"), STEP)
    except BaseException as interruption:  # Prefect ends this process by the same signal
        print(json.dumps(getattr(interruption, "__notes__", [])), flush=True)
        raise
    print(json.dumps(made.params), flush=True)


if __name__ == "__main__":
    line(int(sys.argv[1]))
