"""A flow that ends as the line does, with a candidate that was made before: `python -m …` serves it.

It is what Prefect's worker would start; nothing is trained.
"""

from uuid import uuid4

from prefect import flow, runtime

from flows import local
from flows.endings import with_ending
from flows.promotion import after, noting, settle
from flows.provenance import FOLDER
from flows.resumed import resumed_pins
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
def waiting(key: str = "one", hours: float = 72) -> Summary:
    """Come to the decision on the candidate `key`, and wait for a person, for so many hours."""
    promotion = RECIPE.promotion.model_copy(update={"approval_hours": hours})
    return with_ending(lambda: line(key, RECIPE.model_copy(update={"promotion": promotion})))


def line(key: str, recipe: Recipe) -> Summary:
    pins = resumed_pins(recipe) or PINS.model_copy(
        update={"champion": registry.champion(recipe.name), "dataset": moving()}
    )
    tags = {"prefect.flow_run_id": runtime.flow_run.id}
    # As in the line, what is made depends on the dataset, and what it is compared with is a part of it.
    made = f"{pins.dataset} {pins.champion and pins.champion.version}"
    with tracking.start_run(recipe, "a run", tags, made) as run:
        run.log_texts({"pins.json": pins.model_dump_json()}, FOLDER)
        version = registry.register_candidate(run, recipe, PINS, candidate(f"{key} {pins.dataset}"))
        held = decision("held")
        with noting(run, version):
            ending = settle(run, version, held, recipe, pins)
        after(ending, version, held, recipe)
        return Summary(
            recipe=recipe.name,
            run_id=run.id,
            reused=0,
            stages=0,
            grids=[],
            ending=ending.name,
            reason=ending.reason,
        )


def moving() -> str:
    """Return the version of a dataset that has another one each time."""
    return uuid4().hex


if __name__ == "__main__":
    local.configure()
    waiting.serve(name="waiting")
