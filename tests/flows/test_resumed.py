"""A run that goes on after it waited makes nothing again, though retune was upgraded meanwhile."""

from uuid import uuid4

import pytest

from flows.plan import make_plan
from flows.resumed import leave_others, leave_stopped, resumed_plan
from retune.building import building
from retune.home import remove
from retune.notes import NOTE
from retune.outputs import Output, Step, step_of
from retune.recipe import Recipe
from retune.retention import PLANNED, WAITING
from retune.tracking import DECISION, OUTCOME, client, start_run
from tests.databases import furnish_mlflow, working_in
from tests.flows.test_provenance import GIVEN, PINS
from tests.retune.test_notes import serving

RECIPE = Recipe.parse(GIVEN)


@pytest.fixture(autouse=True)
def flow_run(tmp_path, monkeypatch):
    """Return the id of the flow run of a deployment that these tests are in."""
    flow_run = str(uuid4())
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__ID", flow_run)
    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", str(uuid4()))
    with working_in(monkeypatch, furnish_mlflow(tmp_path)):
        yield flow_run


def made_by_another_retune(plan):
    """Return the plan as another version of the code would have had it, with the output of each step."""
    old = plan.of(
        {
            step.name: Step(stage=step.stage, key=step.key | {"made with": {"retune": "0.0"}})
            for step in plan.steps()
        }
    )
    for step in old.steps():
        with building(step) as build:
            build.finish(Output)
    return old


def waited(plan, flow_run, pins=PINS, digest=None, recipe=RECIPE):
    """Return the MLflow run in which a flow run waited with a plan."""
    planned = ",".join(step.name for step in plan.steps())
    tags = {"prefect.flow_run_id": flow_run, PLANNED: planned}
    with start_run(recipe, "waits", tags, digest or plan.digest(RECIPE)) as run:
        run.log_texts({"pins.json": pins.model_dump_json()}, "provenance")
        run.set_tags({DECISION: f"{WAITING}: decide", OUTCOME: WAITING})
    return run


@pytest.mark.parametrize("upgraded", ["code", "settings and publishing"])
def test_what_the_person_was_asked_about_is_not_made_again(flow_run, upgraded):
    recipe, digest = RECIPE, None
    if upgraded != "code":  # an older retune had fewer settings, by which it told its plans apart
        recipe, digest = (
            Recipe.parse(GIVEN | {"publishing": {"enabled": True, "repo": "a/b"}}),
            "old",
        )
    plan = make_plan(recipe, PINS)
    assert (plan.publish is None) == (upgraded == "code")
    old = made_by_another_retune(plan)
    if old.publish:
        remove(old.publish.folder)
    run = waited(old, flow_run, digest=digest, recipe=recipe)
    resumed = resumed_plan(recipe, PINS, plan)
    kept = [step for step in resumed.plan.steps() if step.stage != "publish"]
    assert [step.name for step in kept] == [
        step.name for step in old.steps() if step.stage != "publish"
    ]
    assert all(step.done for step in kept)
    # So it goes on in its MLflow run, too.
    assert resumed.run_id == run.id
    tags = {"prefect.flow_run_id": flow_run}
    with start_run(recipe, "again", tags, resumed.digest) as again:
        assert again.id == run.id


def test_what_is_not_there_any_more_is_made_again(flow_run):
    plan = make_plan(RECIPE, PINS)
    old = made_by_another_retune(plan)
    waited(old, flow_run)
    remove(old.train.folder)
    assert step_of(old.train.name) is None
    assert resumed_plan(RECIPE, PINS, plan) is None


def test_another_champion_is_another_comparison(flow_run):
    plan = make_plan(RECIPE, PINS)
    waited(made_by_another_retune(plan), flow_run)
    beside = PINS.model_copy(update={"champion": serving("0" * 32)})
    assert resumed_plan(RECIPE, beside, make_plan(RECIPE, beside)) is None


def test_a_run_that_did_not_wait_has_a_plan_of_its_own(flow_run, monkeypatch):
    plan = make_plan(RECIPE, PINS)
    assert resumed_plan(RECIPE, PINS, plan) is None
    waited(made_by_another_retune(plan), flow_run)
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__ID", str(uuid4()))
    assert resumed_plan(RECIPE, PINS, plan) is None


def test_one_that_goes_on_elsewhere_leaves_none_that_waits(flow_run):
    run = waited(made_by_another_retune(make_plan(RECIPE, PINS)), flow_run)
    leave_others(RECIPE, "f" * 32)
    tags = client().get_run(run.id).data.tags
    assert tags[OUTCOME] == "Superseded"
    assert tags[DECISION].endswith(f"it goes on in run {'f' * 32}")


def test_one_that_is_tried_again_elsewhere_says_where(flow_run):
    with (
        pytest.raises(KeyboardInterrupt),
        start_run(RECIPE, "stopped", {"prefect.flow_run_id": flow_run}, "a plan") as run,
    ):
        run.set_tags(
            {OUTCOME: "Stopped", NOTE: "**Stopped before its end: run it again.**\n\nMore."}
        )
        raise KeyboardInterrupt
    with start_run(RECIPE, "again", {"prefect.flow_run_id": flow_run}, "another") as again:
        leave_stopped(RECIPE, again.id)
        assert again.id != run.id
    tags = client().get_run(run.id).data.tags
    assert tags[OUTCOME] == "Superseded"
    assert f"goes on in run {again.id}" in tags[NOTE]
    assert "run it again" not in tags[NOTE]
    assert tags[NOTE].endswith("More.")
    assert OUTCOME not in client().get_run(again.id).data.tags


def test_one_that_has_decided_is_left_as_it_is(flow_run):
    """Its version serves, and only its publishing failed."""
    with start_run(RECIPE, "failed", {"prefect.flow_run_id": flow_run}, "a plan") as run:
        run.set_tags({OUTCOME: "Failed", DECISION: "Promoted: nightly/1 serves"})
    leave_stopped(RECIPE, "f" * 32)
    assert client().get_run(run.id).data.tags[DECISION] == "Promoted: nightly/1 serves"


@pytest.mark.parametrize("name", ["../../etc", "train/../x", "train/0123456789abcdef", "train"])
def test_no_output_has_no_step(name):
    assert step_of(name) is None
