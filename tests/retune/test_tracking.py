"""Runs in a real MLflow store: parameters, metrics, files, child runs, and how a run ends."""

import json
from pathlib import Path

import pytest

from retune import tracking
from retune.config import Recipe, flat
from retune.workspace import Output, Step, building

RECIPE = Recipe.parse({"name": "r", "model": {"base": "a/b" * 3000}, "dataset": {"source": "c/d"}})


@pytest.fixture
def client(tmp_path, monkeypatch):
    monkeypatch.setenv("RETUNE_HOME", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tracking.client.cache_clear()
    yield tracking.client()
    tracking.client.cache_clear()


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


def test_a_run_holds_the_whole_recipe_and_each_output(client):
    old = make_output("old")
    with tracking.start_run(RECIPE, "first", {"where": "here"}) as run:
        run.log(make_output("new"))
        history = client.get_metric_history(run.id, "train/loss")
        assert [entry.step for entry in history] == [0]  # the live log is the task's own work
        run.log(old)
    stored = client.get_run(run.id)
    assert stored.info.status == "FINISHED"
    assert set(stored.data.params) == set(flat(RECIPE))
    assert stored.data.params["training.learning_rate"] == "0.0003"
    assert len(stored.data.params["model.base"]) == tracking.PARAM_LIMIT
    assert stored.data.metrics["train/seconds"] >= 0
    assert artifacts(client, run, "train") == {"train/notes.txt", "train/models.json"}


def test_a_reused_output_brings_its_history(client):
    old = make_output("old")
    with tracking.start_run(RECIPE, "second", {}) as run:
        run.log(old)
    assert client.get_run(run.id).data.tags["retune.train"] == "reused"
    steps = [e.step for e in client.get_metric_history(run.id, "train/loss") if e.step]
    assert steps == [1, 2]


def test_models_are_logged_by_place_size_and_hash(client):
    with tracking.start_run(RECIPE, "third", {}) as run:
        output = run.log(make_output("x"))
        path = client.download_artifacts(run.id, "train/models.json")
    (entry,) = json.loads(Path(path).read_text())["models"]
    assert entry["uri"] == (output.folder / "weights").as_uri()
    assert entry["bytes"] == 3
    assert len(entry["sha256"]) == 64


def test_models_are_uploaded_when_the_recipe_asks(client):
    recipe = RECIPE.model_copy(
        update={"tracking": RECIPE.tracking.model_copy(update={"upload_models": True})}
    )
    with tracking.start_run(recipe, "fourth", {}) as run:
        run.log(make_output("y"))
    assert "train/models" in artifacts(client, run, "train")


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError("bad"), "FAILED"), (KeyboardInterrupt(), "KILLED")]
)
def test_a_run_ends_as_its_block_does(client, error, status):
    with pytest.raises(type(error)), tracking.start_run(RECIPE, "fifth", {}) as run:
        raise error
    stored = client.get_run(run.id)
    assert stored.info.status == status
    assert stored.data.tags["retune.error"] == str(error)


def test_children_know_their_parent(client):
    with tracking.start_run(RECIPE, "sixth", {}) as run:
        run.log_child(make_output("z"), "q4_k_m")
        run.log_failed_child("q2_k", RuntimeError("broke"))
    children = client.search_runs(
        [run.experiment_id], f"tags.`mlflow.parentRunId` = '{run.id}'", order_by=["start_time"]
    )
    seen = {c.info.run_name: c.info.status for c in children}
    assert seen == {"q4_k_m": "FINISHED", "q2_k": "FAILED"}
