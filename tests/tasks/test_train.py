"""Training with the real Unsloth: it learns, survives a kill, and says clearly why it cannot go on."""

import json
import math
import shutil

import pyarrow.parquet as pq
import pytest

from retune.child import ChildRefused
from retune.config import Model, Training
from retune.tracking import client
from tasks.train import run_training
from tasks.train.unsloth_child import (
    CHECKPOINT_FILES,
    TrainJob,
    cut_log,
    last_checkpoint,
    require_gpu,
)
from tests.tasks.conftest import read_json_lines

STEPS = list(range(1, 5 * 320 // 8 + 1))  # 5 epochs of 320 rows, 8 at a time


def job_in(folder, project, **settings) -> TrainJob:
    return TrainJob(
        rows=project.chats.train,
        tokenizer=project.chats.tokenizer,
        model=settings.pop("model", project.model),
        revision=None,
        config=Training(**{"optimizer": "adamw_torch", "max_steps": 2} | settings),
        folder=folder,
    )


def test_a_killed_training_goes_on_where_it_was(at_home, trained):
    assert [row["step"] for row in trained.first_log][: trained.killed_at] == list(range(1, 13))
    rows = read_json_lines(trained.log())
    assert [row["step"] for row in rows] == STEPS
    assert rows[:10] == trained.first_log[:10]  # kept from before the kill
    # What was lost with the kill was trained again, on the same rows in the same order.
    assert rows[10]["train/loss"] == pytest.approx(trained.first_log[10]["train/loss"], rel=1e-3)
    history = client().get_metric_history(trained.run.id, "train/loss")
    assert sorted(metric.step for metric in history) == STEPS


def test_the_loss_falls_and_the_record_says_so(at_home, trained):
    metrics = trained.adapter.metrics
    rows = read_json_lines(trained.log())
    assert metrics["final_loss"] == rows[-1]["train/loss"] < 0.5 * rows[0]["train/loss"]
    assert metrics["steps"] == len(STEPS)
    assert 0 < metrics["trainable_share"] < 1
    assert metrics["median_tokens_per_second"] > 0
    assert metrics["peak_memory_gib"] > 0
    assert (trained.adapter.path / "adapter_model.safetensors").stat().st_size > 0
    assert not (trained.adapter.folder / "checkpoints").exists()
    config = json.loads((trained.adapter.path / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["use_rslora"]) == (32, 32, True)
    assert config["base_model_name_or_path"] == at_home.model.base


def test_the_model_sees_the_rows_tokens_and_no_others(at_home, trained):
    """A BOS or EOS added on the way would show in the count."""
    ids = pq.read_table(at_home.chats.train, columns=["input_ids"])["input_ids"].to_pylist()
    assert trained.adapter.metrics["total_tokens"] == 5 * sum(map(len, ids))


def test_a_loss_that_is_not_a_number_ends_the_training(at_home, tmp_path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(at_home.model.base, tmp_path / "base")
    weights = load_file(tmp_path / "base" / "model.safetensors")
    weights["model.norm.weight"][:] = math.nan
    save_file(weights, tmp_path / "base" / "model.safetensors", metadata={"format": "pt"})
    model = Model(base=str(tmp_path / "base"), load_in_4bit=False, max_length=64)
    job = job_in(tmp_path, at_home, model=model)
    with pytest.raises(ChildRefused, match=r"the loss is nan at step 1 .*training\.learning_rate"):
        run_training(job, lambda event: None)


def test_settings_that_need_a_gpu_are_refused_before_anything_is_loaded(at_home, tmp_path):
    job = job_in(tmp_path, at_home, optimizer="paged_adamw_8bit")
    with pytest.raises(ChildRefused, match=r"paged_adamw_8bit needs a GPU.*optimizer=adamw_torch"):
        run_training(job, lambda event: None)
    assert "Unsloth" not in (tmp_path / "train.log").read_text()
    with pytest.raises(ValueError, match=r"set model\.load_in_4bit=false"):
        require_gpu(Model(base="b", load_in_4bit=True), job.config)


def test_a_checkpoint_cut_short_is_passed_over(tmp_path):
    for step in (5, 10, 100):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        for name in CHECKPOINT_FILES:
            (folder / name).write_text("{}")
    (tmp_path / "checkpoint-100" / "trainer_state.json").unlink()
    (tmp_path / "checkpoint-10" / "trainer_state.json").write_text('{"global_st')
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-5"
    assert last_checkpoint(tmp_path / "none") is None


def test_the_log_is_cut_at_the_checkpoint(tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"ste')
    cut_log(log, 2)
    assert [row["step"] for row in read_json_lines(log)] == [1, 2]
