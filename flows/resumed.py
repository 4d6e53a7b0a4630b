"""What a flow run goes on with that waited for an approval: the inputs that the person was asked about.

Meanwhile the dataset may have moved. Pinned anew, the run would train another model than the one that
was approved, and ask again.
"""

from typing import TYPE_CHECKING
from uuid import UUID

from prefect import get_client, get_run_logger, runtime
from prefect.client.schemas.objects import StateType
from pydantic import ValidationError

from flows.dead_runs import states_of
from flows.provenance import FOLDER
from retune import registry
from retune.recipe import Recipe
from retune.records import Pins
from retune.retention import waits
from retune.tracking import DECISION, client, download_json, newest_runs

if TYPE_CHECKING:
    from mlflow.entities import Run as StoredRun

RUNS = 20  # of MLflow, for one of Prefect that waited again and again
UNDER_WAY = (StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING)


def resumed_pins(recipe: Recipe) -> Pins | None:
    """Return the inputs of the flow run that is under way, as they were when it began to wait, but for
    the version that serves by now; None if it did not wait."""
    for run in _runs_of_this_flow_run(recipe, 1):
        # One that lost its process after it went on has not decided yet.
        kept = download_json(run.info.run_id, f"{FOLDER}/pins.json")
        if kept and (waits(run.data.tags) or _was_suspended()):
            try:
                pins = Pins.model_validate(kept | {"champion": None})
            except ValidationError as error:
                get_run_logger().warning("Pinned anew: another version kept the inputs: %s", error)
                return None
            return pins.model_copy(update={"champion": registry.champion(recipe.name)})
    return None


def leave_others(recipe: Recipe, run_id: str) -> None:
    """Note of other MLflow runs in which this flow run waited that it goes on in the run `run_id`: it
    does where another version serves by now, of which the candidate is another comparison."""
    for run in _runs_of_this_flow_run(recipe, RUNS):
        if run.info.run_id != run_id and waits(run.data.tags):
            goes_on = f"Superseded: another version serves by now; it goes on in run {run_id}"
            client().set_tag(run.info.run_id, DECISION, goes_on)


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
