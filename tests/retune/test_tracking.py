"""Runs in a real MLflow store: parameters, metrics, files, child runs, and how a run ends."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import mlflow.artifacts
import mlflow.data
import pytest
from mlflow.data.huggingface_dataset_source import HuggingFaceDatasetSource

from retune import tracking
from retune.building import building
from retune.outputs import Output, Step
from retune.recipe import Recipe, flat

NUMBERS = itertools.count(1)


@pytest.fixture
def recipe():
    """A recipe of its own for each test, since all share one server; one value is long."""
    return Recipe.parse(
        {
            "name": f"r{next(NUMBERS)}",
            "model": {"base": "a/b"},
            "dataset": {"source": "c/d"},
            "validation": {"refusals": ["I can't" * 10] * 100},
        }
    )


def make_output(key: str, **fields) -> Output:
    with building(Step(stage="train", key={"k": key})) as build:
        (build.path / "notes.txt").write_text("notes")
        (build.path / "weights").mkdir()
        (build.path / "weights" / "w").write_bytes(b"123")
        (build.path / "log.jsonl").write_text(
            '{"step": 1, "train/loss": 3.0}\n{"step": 2, "train/loss": 2.0}\n'
        )
        return build.finish(
            Output,
            metrics={"loss": 2.0},
            files=("notes.txt",),
            history="log.jsonl",
            models=("weights",),
            **fields,
        )


def artifacts(client, run, path=None):
    return {file.path for file in client.list_artifacts(run.id, path)}


@pytest.mark.parametrize(
    "client", ["sqlite", pytest.param("server", marks=pytest.mark.slow)], indirect=True
)
def test_a_run_holds_the_whole_recipe_and_each_output(client, recipe):
    old = make_output("old")
    with tracking.start_run(recipe, "first", {"where": "here"}) as run:
        run.log(make_output("new"))
        history = client.get_metric_history(run.id, "train/loss")
        # Its final value, and what a run that follows it live may have missed of its curve.
        assert [entry.step for entry in history] == [0, 1, 2]
        run.log(old)
    stored = client.get_run(run.id)
    assert stored.info.status == "FINISHED"
    assert set(stored.data.params) == set(flat(recipe))
    assert stored.data.params["training.learning_rate"] == "0.0003"
    assert len(stored.data.params["validation.refusals"]) == tracking.PARAM_LIMIT
    assert stored.data.metrics["train/seconds"] >= 0
    assert artifacts(client, run, "train") == {"train/notes.txt", "train/models.json"}


def test_a_reused_output_brings_its_history(client, recipe):
    old = make_output("old")
    with tracking.start_run(recipe, "second", {}) as run:
        run.log(old)
    assert client.get_run(run.id).data.tags["retune.train"] == "reused"
    steps = [e.step for e in client.get_metric_history(run.id, "train/loss") if e.step]
    assert steps == [1, 2]


def test_models_are_logged_by_place_size_and_hash(client, recipe):
    with tracking.start_run(recipe, "third", {}) as run:
        output = run.log(make_output("x"))
        path = client.download_artifacts(run.id, "train/models.json")
    (entry,) = json.loads(Path(path).read_text())["models"]
    assert entry["uri"] == (output.folder / "weights").as_uri()
    assert entry["bytes"] == 3
    assert len(entry["sha256"]) == 64


def test_an_unchanged_rerun_reads_no_large_file(client, recipe):
    output = make_output("again")
    made = output.entry("weights")
    (output.folder / "weights" / "w").write_bytes(b"456")  # of the size that was noted
    with tracking.start_run(recipe, "unchanged", {}) as run:
        run.log(output)
        path = client.download_artifacts(run.id, "train/models.json")
    (entry,) = json.loads(Path(path).read_text())["models"]
    assert entry["sha256"] == made.sha256


def test_models_are_uploaded_when_the_recipe_asks(client, recipe):
    uploading = recipe.model_copy(
        update={"tracking": recipe.tracking.model_copy(update={"upload_models": True})}
    )
    with tracking.start_run(uploading, "fourth", {}) as run:
        run.log(make_output("y"))
    assert "train/models" in artifacts(client, run, "train")


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError("bad"), "FAILED"), (KeyboardInterrupt(), "KILLED")]
)
def test_a_run_ends_as_its_block_does(client, recipe, error, status):
    with pytest.raises(type(error)), tracking.start_run(recipe, "fifth", {}) as run:
        raise error
    stored = client.get_run(run.id)
    assert stored.info.status == status
    assert stored.data.tags["retune.error"] == str(error)


KILLED = """
import os, signal
from retune import tracking
from retune.recipe import Recipe
recipe = Recipe.parse({"name": "r", "model": {"base": "b"}, "dataset": {"source": "s"}})
with tracking.start_run(recipe, "killed", {"where": "before"}, plan="abc") as run:
    run.log_metrics({"train/loss": 3.0}, 1)
    print(run.id, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_run_that_lost_its_process_goes_on(client):
    """The same recipe is run again: no second run, no step twice, an end at last."""
    recipe = Recipe.parse({"name": "r", "model": {"base": "b"}, "dataset": {"source": "s"}})
    killed = subprocess.run([sys.executable, "-c", KILLED], capture_output=True, text=True)
    lost = killed.stdout.strip()
    assert client.get_run(lost).info.status == "RUNNING"
    with tracking.start_run(recipe, "another plan", {}, plan="abd") as other:
        assert other.id != lost
    output = make_output("made by the killed process")
    with tracking.start_run(recipe, "again", {"where": "after"}, plan="abc") as run:
        assert run.id == lost
        with tracking.start_run(recipe, "beside it", {}, plan="abc") as beside:
            assert beside.id != lost  # this process is alive
        for _ in range(2):  # by the killed process, and again by this one
            run.log(output)
            run.log_child(output, "q4_k_m")
    stored = client.get_run(lost)
    assert (stored.info.status, stored.data.tags["where"]) == ("FINISHED", "after")
    history = client.get_metric_history(lost, "train/loss")
    # The output's own, and the curve: the step that was lost with the process, and none twice.
    assert sorted(metric.step for metric in history) == [0, 1, 2]
    children = client.search_runs([run.experiment_id], f"tags.`mlflow.parentRunId` = '{lost}'")
    assert [child.info.run_name for child in children] == ["q4_k_m"]


def test_children_know_their_parent(client, recipe):
    with tracking.start_run(recipe, "sixth", {}) as run:
        run.log_child(make_output("z"), "q4_k_m")
        run.log_failed_child("q2_k", RuntimeError("broke"))
    children = client.search_runs(
        [run.experiment_id], f"tags.`mlflow.parentRunId` = '{run.id}'", order_by=["start_time"]
    )
    seen = {c.info.run_name: c.info.status for c in children}
    assert seen == {"q4_k_m": "FINISHED", "q2_k": "FAILED"}


def accepted(recipe: Recipe, pin: str, gate: str = "passed") -> str:
    """Make a run whose gate said `gate` of the dataset version `pin`; return its id."""
    with tracking.start_run(recipe, "earlier", {"retune.dataset": pin}) as run:
        run.set_tags({"retune.gate": gate})
        return run.id


@pytest.fixture
def clock(monkeypatch):
    """Runs start a second apart, however fast they are made."""
    ticks = itertools.count(1_700_000_000_000, 1000)
    monkeypatch.setattr(
        "mlflow.tracking._tracking_service.client.get_current_time_millis", lambda: next(ticks)
    )


def test_a_hub_dataset_is_an_input_that_mlflow_can_load_again(client, recipe):
    with tracking.start_run(recipe, "seventh", {}) as run:
        run.log_dataset(
            "FineTome", "a" * 40, "m/FineTome", "c0ffee", 900, "training", split="train"
        )
    (logged,) = client.get_run(run.id).inputs.dataset_inputs
    assert (logged.dataset.name, logged.dataset.digest) == ("FineTome", "a" * 36)
    assert json.loads(logged.dataset.profile) == {"num_rows": 900}
    assert [(tag.key, tag.value) for tag in logged.tags] == [("mlflow.data.context", "training")]
    source = mlflow.data.get_source(logged)
    assert isinstance(source, HuggingFaceDatasetSource)
    assert (source.path, source.revision) == ("m/FineTome", "c0ffee")
    assert (source.config_name, source.split) == (None, "train")


def test_a_local_dataset_is_an_input_by_its_path(client, recipe, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("{}")
    with tracking.start_run(recipe, "eighth", {}) as run:
        run.log_dataset("rows", "1234", str(file), None, 1, "training")
    (logged,) = client.get_run(run.id).inputs.dataset_inputs
    assert logged.dataset.source_type == "local"
    assert Path(mlflow.data.get_source(logged).load()).read_text() == "{}"


def test_runs_are_found_by_their_dataset(client, recipe):
    with tracking.start_run(recipe, "ninth", {}) as run:
        run.log_dataset("rows", "1234", "a/b", "c0ffee", 1, "training")
    for word, ids in (("rows", [run.id]), ("others", [])):
        found = client.search_runs([run.experiment_id], f"dataset.name = '{word}'")
        assert [r.info.run_id for r in found] == ids


def test_without_an_earlier_run_nothing_was_accepted(client, recipe):
    assert tracking.last_accepted(recipe, "sha256:a") is None
    accepted(recipe, "sha256:a")
    assert tracking.last_accepted(recipe, "sha256:a") is None


def test_the_newest_run_on_other_data_was_accepted_last(client, recipe, clock):
    accepted(recipe, "sha256:a")
    newest = accepted(recipe, "sha256:b")
    accepted(recipe, "sha256:c")
    accepted(recipe, "sha256:d", gate="failed")
    accepted(recipe.model_copy(update={"name": "other"}), "sha256:e")
    assert tracking.last_accepted(recipe, "sha256:c") == newest
    # Run again, the same data is compared with the same run.
    accepted(recipe, "sha256:c")
    assert tracking.last_accepted(recipe, "sha256:c") == newest


def test_data_whose_model_was_rejected_are_nothing_to_compare_with(client, recipe, clock):
    good = accepted(recipe, "sha256:a")
    poisoned = accepted(recipe, "sha256:b")
    client.set_tag(poisoned, tracking.DECISION, "Rejected: worse by loss (anchor)")
    assert tracking.last_accepted(recipe, "sha256:c") == good
    client.set_tag(poisoned, tracking.DECISION, "Undecided: too few examples")
    assert tracking.last_accepted(recipe, "sha256:c") == poisoned


def test_the_experiment_may_have_a_name_of_its_own(client, recipe):
    named = Recipe.parse(
        {**recipe.model_dump(exclude_unset=True), "tracking": {"experiment": "it's mine"}}
    )
    run_id = accepted(named, "sha256:a")
    assert tracking.last_accepted(named, "sha256:b") == run_id


def test_a_pin_cannot_change_the_question(client, recipe):
    with pytest.raises(AssertionError, match="not a commit"):
        tracking.last_accepted(recipe, "x' OR tags.a = 'b")


def test_json_artifacts_come_back(client, recipe):
    with tracking.start_run(recipe, "tenth", {}) as run:
        client.log_dict(run.id, {"mean": 3.5}, "validate/scores.json")
        client.log_dict(run.id, {"é": 1}, "top.json")
    assert tracking.download_json(run.id, "validate/scores.json") == {"mean": 3.5}
    assert tracking.download_json(run.id, "top.json") == {"é": 1}


@pytest.mark.parametrize(
    "path", ["validate/scores.json", "validate/other.json", "none/x.json", "x"]
)
def test_a_missing_artifact_is_none(client, recipe, path):
    with tracking.start_run(recipe, "eleventh", {}) as run:
        client.log_dict(run.id, {}, "validate/there.json")
    assert tracking.download_json(run.id, path) is None


@pytest.mark.parametrize("client", ["sqlite"], indirect=True)
def test_an_experiment_that_was_deleted_is_told_with_the_way_back(client, recipe):
    with tracking.start_run(recipe, "before", {}):
        pass
    experiment = client.get_experiment_by_name(recipe.name).experiment_id
    client.delete_experiment(experiment)
    words = f"was deleted in MLflow; restore it by .*restore --experiment-id {experiment}`, or name"
    with (
        pytest.raises(tracking.ExperimentDeleted, match=words),
        tracking.start_run(recipe, "after", {}),
    ):
        pass
