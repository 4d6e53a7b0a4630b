"""Runs that have nothing to do: whatever they start from is what an accepted run has started from.

Accepted is a run that ended with a decision which the same inputs would lead to again (`SETTLED`), if
the version that serves is the one that it made, or the one that it was compared with. What a gate or a
person rejected, what failed and what waits for an approval is run again: the word is not the last.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from prefect import get_client, get_run_logger, runtime

from flows.plan import Plan, make_plan
from flows.provenance import SCHEDULE, TRIGGER, started
from flows.summary import Grid, Summary
from retune.recipe import Recipe
from retune.records import Pins
from retune.retention import PLANNED
from retune.tracking import DECISION, OPPONENT, client, newest_runs

SKIPPED = "Skipped"  # the state, and the tag in Prefect in small letters
SETTLED = ("Promoted", "Equivalent", "Undecided", "Registered", "Barred")
INPUTS = "retune.inputs"  # tag of a run
BUT_DATA = "retune.inputs_but_data"  # tag: the same for equal settings, base and code on any data
STILL = "retune.unchanged"  # tag of an accepted run: when a later one had nothing to do
LOOKED_AT = 20  # runs of the same inputs


class Earlier(NamedTuple):
    """An accepted run of the same inputs: `decision` is how it ended, and why."""

    run_id: str
    name: str
    decision: str

    @property
    def reason(self) -> str:
        return f"unchanged since {self.name} ({self.run_id[:8]}), which ended {self.decision}"


def input_tags(
    recipe: Recipe, pins: Pins, plan: Plan, noise: Mapping[str, float]
) -> dict[str, str]:
    """Return the tags by which a later run finds the one that begins."""
    mix = ("sha256:any",) * len(pins.mix)
    any_data = {"dataset": "sha256:any", "mix": mix, "accepted": None, "champion": None}
    others = pins.model_copy(update=any_data)
    return {
        INPUTS: plan.inputs(recipe, pins, noise),
        BUT_DATA: make_plan(recipe, others).inputs(recipe, others, noise),
        OPPONENT: _serving(pins),
        PLANNED: ",".join(step.name for step in plan.steps()),
    }


def accepted_run(recipe: Recipe, pins: Pins, plan: Plan, tags: Mapping[str, str]) -> Earlier | None:
    """Return the newest accepted run that started from the same, by its `tags` as `input_tags` gives
    them; None if there is none."""
    condition = f"attributes.status = 'FINISHED' AND tags.`{INPUTS}` = '{tags[INPUTS]}'"
    for run in newest_runs(recipe, condition, LOOKED_AT):
        decision = run.data.tags.get(DECISION, "")
        same_opponent = run.data.tags.get(OPPONENT) == tags[OPPONENT]
        it_serves = bool(pins.champion) and tags[OPPONENT] == plan.train.fingerprint
        if decision.startswith(SETTLED) and (same_opponent or it_serves):
            name = run.info.run_name or run.info.run_id
            return Earlier(run.info.run_id, name, decision.partition(":")[0])
    return None


def skips(recipe: Recipe) -> bool:
    """Tell whether the flow run that is under way may end without doing anything."""
    if recipe.schedule.force or recipe.schedule.skip_unchanged == "never":
        return False
    return recipe.schedule.skip_unchanged == "always" or by_itself()


def by_itself() -> bool:
    """Tell whether no person started the flow run that is under way."""
    return started() in (SCHEDULE, TRIGGER)


def skipped_for(earlier: Earlier, recipe: Recipe) -> Summary:
    """Return how a run ends that has nothing to do, after it was noted where people look."""
    now = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    client().set_tag(earlier.run_id, STILL, now)
    return skipped(recipe, earlier.run_id, earlier.reason)


def skipped(recipe: Recipe, run_id: str, reason: str) -> Summary:
    """Return the summary of a run that ends as Skipped, and leave a tag in Prefect.

    `run_id` is the MLflow run to look at instead.
    """
    get_run_logger().info("%s: %s", SKIPPED, reason)
    _tag()
    return Summary(
        recipe=recipe.name,
        run_id=run_id,
        reused=0,
        stages=0,
        grids=[Grid(title=SKIPPED, columns=["", ""], rows=[["why", reason], *_override(recipe)])],
        ending=SKIPPED,
        reason=reason,
    )


def _override(recipe: Recipe) -> list[list[str]]:
    return [["to run it all the same", f"retune run {recipe.name} --force, or schedule.force"]]


def _serving(pins: Pins) -> str:
    return pins.champion.adapter if pins.champion else "none"


def _tag() -> None:
    with get_client(sync_client=True) as prefect:
        tags = {*runtime.flow_run.tags, SKIPPED.lower()}
        prefect.update_flow_run(runtime.flow_run.id, tags=sorted(tags))
