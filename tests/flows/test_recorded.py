"""What a replay reads of a run, and which runs it refuses, in a real MLflow store."""

import json
import os

import pytest
import yaml

from flows.recorded import REPLAY_OF, Made, NotReplayable, NotTheSame, made, recorded, replayable
from flows.replay import compared, deviations, measured_noise
from retune.machine import this_machine
from retune.recipe import Recipe
from retune.records import Pins
from retune.tracking import client, start_run
from retune.version import this_version
from tests.databases import furnish_mlflow, working_in

RECIPE = Recipe.parse({"name": "sums", "model": {"base": "a/b"}, "dataset": {"source": "c/d"}})
PINS = Pins(dataset="d" * 40, model="m" * 40, mix=("x" * 40, "y" * 40))
TRAINED = {"retune.step.train": "0123456789abcdef"}


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    with working_in(monkeypatch, furnish_mlflow(tmp_path / "home")):
        yield


def run_of(tags=(), software=None, machine=None, provenance=True, metrics=None) -> str:
    with start_run(RECIPE, "one", dict(tags)) as run:
        if provenance:
            texts = {
                "recipe.yaml": "name: sums",
                "recipe.resolved.yaml": yaml.safe_dump(RECIPE.model_dump(mode="json")),
                "pins.json": PINS.model_dump_json(),
                "software.json": json.dumps(software or {}),
                "machine.json": json.dumps(machine or {}),
            }
            run.log_texts(texts, "provenance")
        run.log_metrics(metrics or {})
    return run.id


def test_a_run_is_read_as_it_was_kept():
    run_id = run_of(TRAINED, {"number": "0.1"}, {"cores": 2})
    run = replayable(run_id)
    assert (run.recipe, run.pins, run.software, run.machine) == (
        *(RECIPE, PINS),
        *({"number": "0.1"}, {"cores": 2}),
    )
    assert run.tags() == {REPLAY_OF: run_id}


def test_a_run_without_provenance_cannot_be_made_again():
    with pytest.raises(NotReplayable) as refused:
        recorded(run_of(provenance=False))
    for name in (
        "one cannot be replayed",
        "provenance/pins.json",
        "provenance/recipe.resolved.yaml",
    ):
        assert name in str(refused.value)


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        (TRAINED | {REPLAY_OF: "abc"}, "is a replay itself: replay the run that it is of, abc"),
        ({"retune.calibration_replicas": "5"}, "is a calibration.*`retune calibrate`"),
        (
            {"retune.error": "dataset rejected: 2 critical expectations failed:\n- all"},
            r"before anything was trained \(dataset rejected: 2 critical expectations failed\)",
        ),
        ({}, "before anything was trained, and there is nothing to compare with"),
    ],
)
def test_a_run_that_is_no_whole_training_says_what_to_do_instead(tags, words):
    with pytest.raises(NotReplayable, match=words):
        replayable(run_of(tags))


def test_a_run_that_is_at_work_cannot_be_made_again_yet():
    run_id = run_of(TRAINED)
    client().update_run(run_id, status="RUNNING")
    with pytest.raises(NotReplayable, match="one is at work, or lost its process"):
        replayable(run_id)


def test_every_input_that_changed_is_told_by_its_setting_with_both_versions():
    run = recorded(run_of())
    now = PINS.model_copy(update={"dataset": "e" * 40, "mix": ("x" * 40, "z" * 40)})
    with pytest.raises(NotTheSame) as refused:
        run.held_to(now)
    lines = {line.partition(":")[0]: line for line in str(refused.value).splitlines()}
    assert {"dataset.source", "dataset.mix"} <= lines.keys()
    assert "model.base" not in lines
    assert "z" * 19 in lines["dataset.mix"]
    assert "y" * 19 in lines["dataset.mix"]


def test_what_a_run_made_leaves_out_what_the_hour_made():
    metrics = {
        **{"train/final_loss": 1.5, "train/seconds": 9.0, "train/gpu/power_watts": 70.0},
        **{"system/cpu": 3.0, "champion/examples": 4.0, "evaluate/loss/tuned": float("nan")},
    }
    run_id = run_of(metrics=metrics)
    parent = client().get_run(run_id)
    child = client().create_run(
        parent.info.experiment_id, tags={"mlflow.parentRunId": run_id}, run_name="q4_k_m"
    )
    client().log_metric(child.info.run_id, "quantize/perplexity", 8.0)
    files = {"models": [{"uri": "file:///a/adapter", "bytes": 1, "sha256": "aa"}]}
    client().log_dict(run_id, files, "train/models.json")
    files = {"models": [{"uri": "file:///a/x.gguf", "bytes": 1, "sha256": "bb"}]}
    client().log_dict(child.info.run_id, files, "quantize/models.json")
    found = made(run_id)
    assert found.measures.keys() == {"train/final_loss", "evaluate/loss/tuned", "q4_k_m/perplexity"}
    assert found.files == {"train/adapter": "aa", "q4_k_m/x.gguf": "bb"}
    assert compared(found, made(run_id), {})[0] == "identical"


def test_only_what_is_another_in_the_environment_is_told():
    version, machine = this_version(), this_machine()
    software = {"number": version.number, "commit": version.commit}
    software |= {"packages": {"pydantic": "0.1", "nowhere": "1.0"}}
    # As JSON has it: the GPUs are a list there.
    as_kept = json.loads(json.dumps(machine._asdict())) | {"cores": machine.cores + 1}
    run = recorded(run_of(software=software, machine=as_kept))
    told = {one.subject: one for one in deviations(run)}
    assert told.keys() == {"pydantic", "nowhere", "machine: cores"}
    assert told["pydantic"].then == "0.1"
    assert told["pydantic"].now != "0.1"
    assert told["machine: cores"].now == str(machine.cores)


def test_downloads_draw_no_progress_bars(capfd, tmp_path):
    run_id = run_of(TRAINED)
    for number in range(12):
        client().log_text(run_id, "text", f"many/{number}.txt")
    capfd.readouterr()
    client().download_artifacts(run_id, "many", str(tmp_path))
    recorded(run_id)
    assert "Downloading" not in capfd.readouterr().err
    assert os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] == "false"


def test_calibrated_noise_is_that_of_the_measures_of_the_same_examples():
    calibrated = {"held_out/loss": 0.01, "battery/passed": 0.02}
    noise = measured_noise(calibrated)
    assert noise == {"evaluate/loss/tuned": 0.01, "evaluate/passed/battery/tuned": 0.02}


def test_a_measure_without_a_known_noise_is_not_said_to_be_within_it():
    then = Made({"evaluate/loss/tuned": 1.0, "train/final_loss": 2.0}, {"train/adapter": "a"})
    now = Made({"evaluate/loss/tuned": 1.01, "train/final_loss": 9.0}, {"train/adapter": "b"})
    outcome, sentence = compared(then, now, {"evaluate/loss/tuned": 0.01})
    assert outcome == "equal"
    assert "of 1 others that differ nobody knows the noise" in sentence
    only = Made({"evaluate/loss/tuned": 1.0, "train/final_loss": 9.0}, {"train/adapter": "b"})
    outcome, sentence = compared(then, only, {"evaluate/loss/tuned": 0.01})
    assert outcome == "unknown"
