"""What a flow run goes on with that waited for an approval: what the person was asked about.

Meanwhile the dataset may have moved, or retune been upgraded. Pinned and planned anew, the run would
train another model than the one that was approved, and ask again.
"""

from typing import TYPE_CHECKING, Any, NamedTuple, cast
from uuid import UUID

from prefect import get_client, get_run_logger, runtime
from prefect.client.schemas.objects import StateType
from pydantic import ValidationError

from flows.dead_runs import states_of
from flows.plan import Plan
from flows.provenance import FOLDER
from retune import registry
from retune.notes import renew
from retune.outputs import Step, step_of
from retune.recipe import Recipe
from retune.records import Pins
from retune.retention import PLANNED, waits
from retune.tracking import DECISION, OUTCOME, PLAN, client, download_json, newest_runs

if TYPE_CHECKING:
    from mlflow.entities import Run as StoredRun

RUNS = 20  # of MLflow, for one of Prefect that waited again and again
SUPERSEDED = "Superseded"
UNDER_WAY = (StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING)


def resumed_pins(recipe: Recipe) -> Pins | None:
    """Return the inputs of the flow run that is under way, as they were when it began to wait, but for
    the version that serves by now; None if it did not wait."""
    run, kept = _waited(recipe)
    if run is None:
        return None
    try:
        pins = Pins.model_validate(kept | {"champion": None})
    except ValidationError as error:
        get_run_logger().warning("Pinned anew: another version kept the inputs: %s", error)
        return None
    return pins.model_copy(update={"champion": registry.champion(recipe.name)})


class Resumed(NamedTuple):
    """What a flow run goes on with: the `plan` with what was made, and the MLflow run `run_id` that it
    waited in, which is found again by its own `digest` of a plan."""

    plan: Plan
    digest: str
    run_id: str


def resumed_plan(recipe: Recipe, pins: Pins, plan: Plan) -> Resumed | None:
    """Return `plan` with what the flow run that is under way had made when it began to wait, which is
    what the person was asked about; None if it did not wait, or that is no answer to it.

    Meanwhile retune or a package may have been upgraded. By the fingerprints of today all of it would be
    made again, hours of training among it, and the person be asked again.
    """
    run, kept = _waited(recipe)
    if run is None:
        return None
    then = (kept.get("champion") or {}).get("version")
    if then != (pins.champion.version if pins.champion else None):
        return None  # it is another comparison by now
    made = _made(run.data.tags.get(PLANNED, "").split(","), plan)
    return Resumed(plan.of(made), run.data.tags[PLAN], run.info.run_id) if made else None


def _made(names: list[str], plan: Plan) -> dict[str, Step]:
    """Return by the names of the steps of `plan` those of the outputs `names`, which other code may have
    made; none if the lines differ, or an output that a candidate is made of is gone."""
    steps = [step for step in plan.steps() if step is not plan.publish]
    made = {
        step.name: step_of(name)
        for step, name in zip(steps, names, strict=False)
        if name.partition("/")[0] == step.stage
    }
    return cast("dict[str, Step]", made) if len(made) == len(steps) and all(made.values()) else {}


def leave_others(recipe: Recipe, run_id: str) -> None:
    """Note of other MLflow runs in which this flow run waited that it goes on in the run `run_id`: it
    does where another version serves by now, of which the candidate is another comparison, or where
    inputs are others by now."""
    for run in _runs_of_this_flow_run(recipe, RUNS):
        if run.info.run_id != run_id and waits(run.data.tags):
            _supersede(run, "another version serves, or inputs are others by now", run_id)


def leave_stopped(recipe: Recipe, run_id: str) -> None:
    """Note of the MLflow runs in which this flow run was stopped, or failed before it had decided, that
    it goes on in the run `run_id`."""
    for run in _runs_of_this_flow_run(recipe, RUNS):
        tags = run.data.tags
        if run.info.run_id == run_id or DECISION in tags:
            continue
        if tags.get(OUTCOME) in ("Stopped", "Failed"):
            _supersede(run, "it was tried again", run_id)


def _supersede(run: "StoredRun", why: str, run_id: str) -> None:
    told = f"{SUPERSEDED}: {why}; it goes on in run {run_id}"
    for key, value in ((DECISION, told), (OUTCOME, SUPERSEDED)):
        client().set_tag(run.info.run_id, key, value)
    renew(run.info.run_id, told, "Nothing: look at that run.")


def _waited(recipe: Recipe) -> "tuple[StoredRun | None, dict[str, Any]]":
    """Return the MLflow run in which this flow run waited, with the inputs that it kept; None: it did not
    wait."""
    for run in _runs_of_this_flow_run(recipe, 1):
        kept = download_json(run.info.run_id, f"{FOLDER}/pins.json")
        # One that lost its process after it went on has not decided yet.
        if kept and (waits(run.data.tags) or _was_suspended()):
            return run, kept
    return None, {}


def _runs_of_this_flow_run(recipe: Recipe, count: int) -> "list[StoredRun]":
    """Return MLflow's newest `count` runs of this flow run; none of one that cannot have waited."""
    flow_run = runtime.flow_run.id
    if not flow_run or not runtime.deployment.id:
        return []
    return newest_runs(recipe, f"tags.`prefect.flow_run_id` = '{flow_run}'", count)


def _was_suspended() -> bool:
    """Tell whether this flow run was suspended before it began again."""
    with get_client(sync_client=True) as client:
        states = states_of(client, UUID(str(runtime.flow_run.id)))
    before = [state.type for state in states if state.type not in UNDER_WAY]
    return before[-1:] == [StateType.PAUSED]
