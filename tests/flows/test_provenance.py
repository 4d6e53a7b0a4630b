"""What a run leaves in MLflow is enough to make it again on an empty machine."""

import json
from pathlib import Path

import pytest
import yaml

from flows.plan import make_plan
from flows.provenance import given, provenance
from retune import machine, pinning, tracking
from retune.made_with import is_module
from retune.recipe import Recipe, flat, set_value
from retune.records import Pins
from retune.tracking import client, start_run
from retune.version import this_version
from tests.databases import furnish_mlflow, working_in

COMMITS = {name: digit * 40 for name, digit in (("dataset", "a"), ("model", "b"), ("base", "c"))}
GIVEN = {
    "name": "nightly",
    "model": {"base": "you/base-bnb-4bit", "max_length": 512},
    "dataset": {"source": "you/rows", "revision": "main"},
    "validation": {"classifier": {"score": "all"}, "tolerances": {"refusal": 0.02}},
    "training": {"checkpoint_minutes": 10},
    "merging": {"base_16bit": "you/base"},
}
PINS = Pins(
    dataset=COMMITS["dataset"],
    model=COMMITS["model"],
    base_16bit=COMMITS["base"],
    benchmarks=(f"sha256:{'d' * 64}",),
    classifier="e" * 40,
)


@pytest.fixture
def recipe():
    return Recipe.parse(GIVEN)


@pytest.fixture
def at_home(tmp_path, monkeypatch):
    with working_in(monkeypatch, furnish_mlflow(tmp_path)):
        yield


def test_what_was_given_is_kept_without_the_defaults(recipe):
    assert given(recipe) == GIVEN
    # As Prefect's form starts it: with every section there, most of them untouched.
    assert given(Recipe.model_validate(dict(recipe))) == GIVEN


def test_a_resolved_recipe_asks_for_the_same_inputs_on_any_day(recipe, monkeypatch):
    again = pinning.resolved(recipe, PINS)
    text = yaml.safe_dump(again.model_dump(mode="json"))
    read = Recipe.parse(yaml.safe_load(text))
    assert read == again
    asked = []
    monkeypatch.setattr(pinning, "pin", lambda name, revision, *_: asked.append((name, revision)))
    monkeypatch.setattr(pinning, "last_accepted", lambda *_: None)
    monkeypatch.setattr(pinning, "Pins", lambda **pins: pins)
    pinning.pin_all(read)
    assert asked == [
        ("you/rows", COMMITS["dataset"]),
        ("you/base-bnb-4bit", COMMITS["model"]),
        ("you/base", COMMITS["base"]),
        ("HuggingFaceFW/fineweb-edu-classifier", "e" * 40),
    ]
    before, after = make_plan(recipe, PINS), make_plan(read, PINS)
    assert [step.fingerprint for step in before.steps()] == [
        step.fingerprint for step in after.steps()
    ]


@pytest.mark.parametrize("way", ["10", "10.0", "1e1"])
def test_what_means_the_same_is_the_same_text_and_makes_nothing_anew(recipe, way):
    values = recipe.model_dump(mode="json", exclude={"training": {"checkpoint_minutes"}})
    values["training"]["epochs"] = 10
    form = json.loads(json.dumps(values))
    changed = set_value(form, f"training.epochs={way}")
    changed = set_value(changed, f"training.checkpoint_minutes={way}")
    by_hand, by_form = Recipe.parse(changed), Recipe.parse(form)
    assert {key: tracking.setting_text(value) for key, value in flat(by_hand).items()} == {
        key: tracking.setting_text(value) for key, value in flat(by_form).items()
    }
    assert make_plan(by_hand, PINS).digest(by_hand) == make_plan(by_form, PINS).digest(by_form)


def test_the_order_of_names_is_no_difference():
    one, other = {"b": 1, "a": 2}, {"a": 2, "b": 1}
    assert tracking.setting_text(one) == tracking.setting_text(other)


def test_mlflow_holds_what_it_takes_to_make_a_run_again(recipe, at_home):
    plan = make_plan(recipe, PINS)
    with start_run(recipe, "first", {}) as run:
        provenance(recipe, PINS, plan).log(run)
    with start_run(recipe, "second", {}) as other:
        provenance(recipe, PINS, plan).log(other)

    folder = Path(client().download_artifacts(run.id, "provenance"))
    assert yaml.safe_load((folder / "recipe.yaml").read_text()) == GIVEN
    rebuilt = Recipe.parse(yaml.safe_load((folder / "recipe.resolved.yaml").read_text()))
    pins = Pins.model_validate_json((folder / "pins.json").read_text())
    assert pins == PINS
    assert make_plan(rebuilt, pins) == plan

    software = json.loads((folder / "software.json").read_text())
    used = {name for step in plan.steps() for name in step.key["made with"] if not is_module(name)}
    assert set(software["packages"]) == used >= {"torch", "transformers", "peft", "bitsandbytes"}
    assert not [name for name in used if "/" in name]  # a file of ours is no package
    assert software["number"] == this_version().number
    described = json.loads((folder / "machine.json").read_text())
    assert described["cores"] == machine.cores()
    assert described["cpu"]

    stored = client().get_run(run.id)
    tags = stored.data.tags
    assert tags["retune.pin.model"] == COMMITS["model"]
    assert tags["retune.pin.benchmark.0"] == PINS.benchmarks[0]
    assert tags["retune.package.torch"] == software["packages"]["torch"]
    # MLflow shows a run's note below its tags.
    assert "retune.package.numpy" not in tags
    assert "numpy" in software["packages"]
    assert tags["retune.started"] == "command line"
    assert {"mlflow.user", "retune.version", "retune.machine.gpu"} <= set(tags)
    # One version of a base is one model, of which both runs are made.
    inputs = [client().get_run(one.id).inputs.model_inputs for one in (run, other)]
    assert len(inputs[0]) == 1
    assert inputs[0] == inputs[1]
    model = client().get_logged_model(inputs[0][0].model_id)
    assert model.tags["retune.source"] == f"you/base-bnb-4bit@{COMMITS['model']}"
    found = client().search_runs(
        [run.experiment_id], f"tags.`retune.pin.dataset` = '{COMMITS['dataset']}'"
    )
    assert {one.info.run_id for one in found} == {run.id, other.id}
