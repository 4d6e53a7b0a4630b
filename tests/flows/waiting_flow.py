"""A flow that ends as the line does, with a candidate that was made before: `python -m …` serves it.

It is what Prefect's worker would start; nothing is trained.
"""

from prefect import flow, runtime

from flows import local
from flows.endings import with_ending
from flows.promotion import after, settle
from flows.summary import Summary
from retune import registry, tracking
from retune.recipe import Recipe
from tests.candidates import PINS, candidate
from tests.flows.test_promotion import decision

RECIPE = Recipe.parse(
    {
        "name": "sums",
        "model": {"base": "a/b"},
        "dataset": {"source": "c/d"},
        "promotion": {"mode": "approve"},
    }
)


@flow(name="waiting")
def waiting(key: str = "one") -> Summary:
    """Come to the decision on the candidate `key`, and wait for a person."""
    return with_ending(lambda: line(key))


def line(key: str) -> Summary:
    pins = PINS.model_copy(update={"champion": registry.champion(RECIPE.name)})
    tags = {"prefect.flow_run_id": runtime.flow_run.id}
    with tracking.start_run(RECIPE, "a run", tags, "plan") as run:
        version = registry.register_candidate(run, RECIPE, PINS, candidate(key))
        held = decision("held")
        ending = settle(run, version, held, RECIPE, pins)
        after(ending, version, held, RECIPE)
        return Summary(
            recipe=RECIPE.name,
            run_id=run.id,
            reused=0,
            stages=0,
            grids=[],
            ending=ending.name,
            reason=ending.reason,
        )


if __name__ == "__main__":
    local.configure()
    waiting.serve(name="waiting")
