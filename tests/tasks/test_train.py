"""Training with the real Unsloth: it learns, survives a kill, and says clearly why it cannot go on."""

import json
import math
import shutil
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from expectations.training import judgement
from expectations.verdicts import Rejected
from retune.child import ChildFailed, ChildRefused, run_child
from retune.environment import ROOT
from retune.errors import RetuneError
from retune.models import token_ids
from retune.outputs import Step
from retune.recipe import Model, Training
from retune.sources import pin
from retune.tracking import Run, client, start_run
from tasks.train import loop, requirements, saving
from tasks.train.backend import target_modules
from tasks.train.checkpoints import newest_whole, step_of
from tasks.train.data import make_collator
from tasks.train.job import Fit, TrainingRefused, TrainJob
from tasks.train.objective import make_objective
from tasks.train.requirements import require_gpu
from tasks.train.task import Monitor, run_training, train
from tasks.train.trainer import make_trainer
from tasks.train.training_log import cut_log
from tests.tasks.conftest import Trained, read_json_lines, running_child

# What both backends have in common is tried with the one that is imported once for all children.
SHORT = {"backend": "trl", "optimizer": "adamw_torch", "max_steps": 2}
STEPS = list(range(1, Trained.epochs * 320 // 8 + 1))  # of 320 rows, 8 at a time


def job_in(folder, project, **settings) -> TrainJob:
    return TrainJob(
        rows=project.chats.train,
        held_out=project.chats.held_out,
        tokenizer=project.chats.tokenizer,
        model=settings.pop("model", project.model),
        revision=None,
        config=Training(**SHORT | settings),
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


def test_steps_whose_arrival_is_not_known_are_not_logged_twice(at_home, tmp_path):
    class Unsure(Run):
        def log_rows(self, rows):
            super().log_rows(rows)
            if rows[-1]["step"] == 2:
                raise ConnectionError("no answer came")

    with start_run(at_home.recipe(), "unsure", {}) as run:
        monitor = Monitor(Unsure(**dict(run)), tmp_path / "log")
        rows = [{"step": step, "train/loss": 1.0} for step in (1, 2, 3)]
        with pytest.raises(ConnectionError):
            monitor._track(rows[:2])
        monitor._track(rows)
    history = client().get_metric_history(run.id, "train/loss")
    assert sorted(metric.step for metric in history) == [1, 2, 3]


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
    (verdict,) = judgement(trained.adapter).verdicts
    assert verdict.passed
    assert verdict.seen == f"{len(STEPS)} steps, the last loss {metrics['final_loss']:.4g}"


def test_the_adapter_is_no_program(trained):
    """transformers' trainer leaves its settings beside the adapter, as a pickle."""
    assert not [*trained.adapter.path.glob("*.bin"), *trained.adapter.path.glob("*.py")]


def test_the_model_sees_the_rows_tokens_and_no_others(at_home, trained):
    """A BOS or EOS added on the way would show in the count."""
    ids = pq.read_table(at_home.chats.train, columns=["input_ids"])["input_ids"].to_pylist()
    assert trained.adapter.metrics["total_tokens"] == Trained.epochs * sum(map(len, ids))


def no_number(folder, project) -> Model:
    """Return a copy of the base model in `folder` that computes nothing but NaN."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(project.model.base, folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][:] = math.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return Model(base=str(folder), load_in_4bit=False, max_length=64)


def train_once(project, name: str, model: Model, **settings):
    config = Training(**SHORT | settings)
    recipe = project.recipe(model=model, training=config)
    pins = project.pins.model_copy(update={"model": pin(model.base, None, "model", "model.base")})
    step = Step(stage="train", key={"test": name})
    with start_run(recipe, name, {}) as run:
        return train.fn(project.chats, run, recipe, pins, step)


def test_a_loss_that_is_not_a_number_ends_the_training(at_home, tmp_path):
    model = no_number(tmp_path / "base", at_home)
    reason = r"the loss is nan at step 1 .*training\.learning_rate"
    with pytest.raises(Rejected, match=f"training rejected: .*\n.*seen: {reason}") as rejection:
        train_once(at_home, "nan", model)
    (verdict,) = rejection.value.judgement.verdicts
    assert (verdict.gate, verdict.name, verdict.severity) == ("train", "convergence", "critical")
    step = Step(stage="train", key={"test": "nan"})
    assert not step.done
    partial = step.folder.with_name(f"{step.folder.name}.partial")
    assert not (partial / "checkpoints").exists()  # they would lead to the same end


def test_what_is_refused_before_the_first_step_has_not_diverged(at_home):
    with pytest.raises(ChildRefused, match="paged_adamw_8bit needs a GPU"):
        train_once(at_home, "refused", at_home.model, optimizer="paged_adamw_8bit")


BLIND = """
import runpy
from tasks.train.health import Health

Health.check = lambda *_: None
runpy.run_path({child!r}, run_name="__main__")
"""


def test_weights_that_are_not_finite_at_the_end_have_diverged(at_home, tmp_path):
    job = job_in(tmp_path, at_home, model=no_number(tmp_path / "base", at_home))
    events = []
    with pytest.raises(ChildRefused, match="the weights hold values that are not finite"):
        run_child(wrapped(tmp_path, BLIND), job, tmp_path / "child.log", events.append, forked=True)
    (diverged,) = [event for event in events if event["event"] == "diverged"]
    assert "not finite" in diverged["reason"]
    assert not job.checkpoints.exists()


def test_a_token_that_the_base_has_no_embedding_for_is_refused(at_home, tmp_path):
    from tasks.train.trl_child import Trl

    (first, *others) = token_ids(at_home.chats.train, 4, 64)
    rows = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"input_ids": [*others, [*first, 100_000]]}), rows)
    job = job_in(tmp_path, at_home).model_copy(update={"rows": rows})
    with pytest.raises(RetuneError, match=r"use token id 100000, but the base model has \d+ embed"):
        loop.run(job, Trl())


def test_settings_that_need_a_gpu_are_refused_before_anything_is_loaded(at_home, tmp_path):
    job = job_in(tmp_path, at_home, backend="unsloth", optimizer="paged_adamw_8bit")
    with pytest.raises(ChildRefused, match=r"paged_adamw_8bit needs a GPU.*optimizer=adamw_torch"):
        run_training(job, lambda event: None)
    assert "Unsloth" not in (tmp_path / "train.log").read_text()
    with pytest.raises(RetuneError, match=r"set model\.load_in_4bit=false"):
        require_gpu(job.model_copy(update={"model": Model(base="b", load_in_4bit=True)}))


@pytest.mark.parametrize(
    "settings",
    [{"shard": True}, {"method": "full", "master_weights": "bfloat16"}],
)
def test_what_fp16_cannot_do_is_refused_on_an_older_gpu(at_home, tmp_path, monkeypatch, settings):
    import torch

    monkeypatch.setattr(requirements, "device", lambda: "cuda")
    monkeypatch.setattr(requirements, "compute_dtype", lambda: torch.float16)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    require_gpu(job_in(tmp_path, at_home))
    with pytest.raises(RetuneError, match=r"bf16 \(Ampere or newer\), this is a Tesla T4; set"):
        require_gpu(job_in(tmp_path, at_home, **settings))


def test_the_adapter_of_a_4_bit_model_is_trained_in_32_bits(at_home, tmp_path, monkeypatch):
    import torch
    from transformers import AutoTokenizer

    from tasks.train.lean import fused_loss_trainer
    from tasks.train.trl_child import Trl

    monkeypatch.setattr(Trl, "trainer_class", lambda self: fused_loss_trainer())  # as on a GPU
    model = at_home.model.model_copy(update={"load_in_4bit": True})
    job = job_in(tmp_path, at_home, model=model, use_dora=True)
    backend = Trl()
    objective = make_objective(job, backend, AutoTokenizer.from_pretrained(job.tokenizer))
    fit = Fit(batch_size=8, gradient_accumulation=2, gradient_checkpointing="off")
    trainer = make_trainer(job, backend, objective, backend.load(job), objective.plan(), fit)
    parameters = trainer.model.named_parameters()
    trained = {name: weight.dtype for name, weight in parameters if weight.requires_grad}
    assert any("lora_B" in name for name in trained)
    assert set(trained.values()) == {torch.float32}


def losses(job) -> list[float]:
    rows = read_json_lines(job.log)
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    return [row["train/loss"] for row in rows]


CRASHED = {"max_steps": 6, "checkpoint_steps": 2, "learning_rate": 3e-3}
# Two processes, each with two passes to a step of the same batch.
SPLIT = {"processes": 2, "shard": True, "batch_size": 4, "gradient_accumulation": 4}


def killed(job, when) -> None:
    """Run `job` and kill its child with SIGKILL as soon as `when(event)` is true."""

    def watch(event):
        if when(event):
            running_child().kill()

    with pytest.raises(ChildFailed, match="SIGKILL"):
        run_training(job, watch)


def at_checkpoint_of(job, step):
    """Return a condition: the checkpoint of `step` is being written."""

    def when(event) -> bool:
        if event["event"] != "log" or event["step"] != step:
            return False
        until = time.monotonic() + 20
        while not (job.checkpoints / f"checkpoint-{step}").exists() and time.monotonic() < until:
            time.sleep(0.0005)
        return True

    return when


@pytest.mark.parametrize(
    "point",
    [
        "mid-step",
        *(
            pytest.param(name, marks=pytest.mark.proof)
            for name in ("start", "checkpoint", "last step")
        ),
    ],
)
def test_a_crash_loses_nothing(at_home, tmp_path, never_killed, point):
    job = job_in(tmp_path, at_home, **CRASHED)
    points = {
        "start": lambda event: event["event"] == "begin",
        "mid-step": lambda event: event.get("step") == 3 and event["event"] == "log",
        "checkpoint": at_checkpoint_of(job, 4),
        "last step": at_checkpoint_of(job, 6),
    }
    killed(job, points[point])
    run_training(job, lambda event: None)
    assert losses(job) == pytest.approx(never_killed, rel=1e-4)
    assert (job.folder / "adapter" / "adapter_model.safetensors").exists()


def test_sigterm_leaves_a_checkpoint(at_home, tmp_path, never_killed):
    job = job_in(tmp_path, at_home, **CRASHED | {"checkpoint_steps": None})

    def terminate(event):
        if event["event"] == "log" and event["step"] == 1:
            running_child().terminate()

    with pytest.raises(ChildRefused, match=r"ended after step \d: it was told to end by SIGTERM"):
        run_training(job, terminate)
    assert last_step(job) < 6
    run_training(job, lambda event: None)
    assert losses(job) == pytest.approx(never_killed, rel=1e-4)


class Cancelled(Exception):
    pass


# In one process it is ended as by the SIGTERM above.
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.proof
def test_a_cancelled_run_leaves_a_checkpoint(at_home, tmp_path, never_killed, processes):
    settings = CRASHED | {"checkpoint_steps": None, "processes": processes}
    job = job_in(tmp_path, at_home, **settings)

    def cancel(event):
        if event["event"] == "log" and event["step"] == 1:
            raise Cancelled

    with pytest.raises(Cancelled):
        run_training(job, cancel)
    assert last_step(job) < 6
    run_training(job, lambda event: None)
    assert losses(job) == pytest.approx(never_killed, rel=1e-4)


def last_step(job) -> int:
    return step_of(newest_whole(job.checkpoints))


@pytest.mark.slow  # two trainings
def test_a_cap_ends_with_a_checkpoint_and_a_higher_one_goes_on(at_home, tmp_path, never_killed):
    capped = job_in(tmp_path, at_home, **CRASHED, max_cost=1e-9, price_per_hour=1.0)
    with pytest.raises(ChildRefused, match=r"after step 1: .*max_cost=1e-09.*run again"):
        run_training(capped, lambda event: None)
    assert last_step(capped) == 1
    job = job_in(tmp_path, at_home, **CRASHED)
    result = run_training(job, lambda event: None)
    assert losses(job) == pytest.approx(never_killed, rel=1e-4)
    assert result["metrics"]["gpu_hours"] > 0


# accelerate shards on accelerators only; the same FSDP2 runs on a CPU if it is told so. With `half`
# it computes in 16 bits.
SHARDED = """
import runpy
from accelerate.state import AcceleratorState, DistributedType, PartialState

create = AcceleratorState.__init__

def create_for_fsdp(self, *arguments, fsdp_plugin=None, **options):
    create(self, *arguments, fsdp_plugin=fsdp_plugin, **options)
    if fsdp_plugin is not None:
        self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP

AcceleratorState.__init__ = create_for_fsdp
if {half}:
    import torch
    from bitsandbytes.nn import modules
    from retune import models
    # Between training steps it would convert the weights' layout, which only a CPU does.
    modules.has_avx512bf16 = lambda: False
    models.compute_dtype = lambda: torch.bfloat16  # before the trainer's modules import it
from tasks.train import loop
loop.require_gpu = lambda job: None
runpy.run_path({child!r}, run_name="__main__")
"""


def wrapped(folder, code, **words):
    """Write the script of a trl child that runs within `code`, filled in; return its path."""
    script = folder / "child.py"
    child = ROOT / "tasks" / "train" / "trl_child.py"
    script.write_text(code.format(child=str(child), **words))
    return script


@pytest.mark.proof
def test_a_model_split_over_two_processes_trains_as_one_and_survives_a_crash(
    at_home, tmp_path, never_killed
):
    job = job_in(tmp_path, at_home, **CRASHED, **SPLIT)
    script = wrapped(tmp_path, SHARDED, half=False)

    def kill(event):
        if event["event"] == "log" and event["step"] == 3:
            running_child().kill()

    with pytest.raises(ChildFailed, match="SIGKILL"):
        run_child(script, job, tmp_path / "child.log", kill, forked=True)
    checkpoint = newest_whole(job.checkpoints)
    assert any(path.suffix == ".distcp" for path in checkpoint.rglob("*"))
    run_child(script, job, tmp_path / "child.log", forked=True)
    assert losses(job) == pytest.approx(never_killed, rel=1e-4)
    assert (job.folder / "adapter" / "adapter_model.safetensors").stat().st_size > 10_000


def whole_and_split(folder, project, half, **settings) -> list[TrainJob]:
    """Train in one process and split over two, with the same settings; return both jobs."""
    jobs = []
    for name, sharding in (("whole", {}), ("split", SPLIT)):
        (folder / name).mkdir()
        job = job_in(folder / name, project, **CRASHED, **settings, **sharding)
        run_child(
            wrapped(job.folder, SHARDED, half=half), job, job.folder / "child.log", forked=True
        )
        jobs.append(job)
    return jobs


@pytest.mark.proof
def test_all_weights_of_a_split_model_are_trained_as_those_of_a_whole_one(at_home, tmp_path):
    from safetensors.torch import load_file

    jobs = whole_and_split(tmp_path, at_home, half=False, method="full")
    courses = [losses(job) for job in jobs]
    whole, split = (load_file(job.folder / "adapter" / "model.safetensors") for job in jobs)
    assert courses[1] == pytest.approx(courses[0], rel=1e-4)
    assert {name: tensor.dtype for name, tensor in split.items()} == {
        name: tensor.dtype for name, tensor in whole.items()
    }
    for name, tensor in split.items():
        assert tensor.float() == pytest.approx(whole[name].float(), abs=1e-3)


@pytest.mark.proof
def test_a_split_4_bit_model_learns_as_a_whole_one(at_home, tmp_path):
    model = at_home.model.model_copy(update={"load_in_4bit": True})
    jobs = whole_and_split(tmp_path, at_home, half=True, model=model)
    courses = [losses(job) for job in jobs]
    assert courses[0][-1] < 0.9 * courses[0][0]
    assert courses[1] == pytest.approx(courses[0], rel=2e-3)
    assert any(loss * 2**8 % 1 for loss in courses[1])  # accelerate would round to 16 bits
    saved = jobs[1].folder / "adapter" / "adapter_model.safetensors"
    assert saved.stat().st_size > 10_000


@pytest.mark.proof
def test_two_processes_train_as_one_and_either_goes_on_for_the_other(
    at_home, tmp_path, never_killed
):
    job = job_in(tmp_path, at_home, **CRASHED, processes=2)
    killed(job, lambda event: event["event"] == "log" and event["step"] == 3)
    assert last_step(job) in (2, 4)  # its processes may live a moment longer
    alone = job_in(tmp_path, at_home, **CRASHED, max_gpu_hours=1e-9)
    with pytest.raises(ChildRefused, match="max_gpu_hours"):
        run_training(alone, lambda event: None)  # one more step, in one process
    run_training(job, lambda event: None)
    assert losses(job) == pytest.approx(never_killed, rel=1e-4)


OUT_OF_MEMORY = """
import os, runpy, torch
from transformers import Trainer

step = Trainer.training_step

def short_of_memory(self, *arguments, **options):
    if self.state.global_step == 3 and os.environ.get("RANK", "1") == "1":
        raise {error}
    return step(self, *arguments, **options)

Trainer.training_step = short_of_memory
runpy.run_path({child!r}, run_name="__main__")
"""


@pytest.mark.slow  # two trainings
@pytest.mark.parametrize(
    "error",
    [
        'torch.OutOfMemoryError("CUDA out of memory")',
        pytest.param(
            'RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")',
            marks=pytest.mark.proof,
        ),
    ],
)
def test_running_out_of_memory_steps_down_and_loses_nothing(at_home, tmp_path, never_killed, error):
    job = job_in(tmp_path, at_home, **CRASHED)
    script = wrapped(tmp_path, OUT_OF_MEMORY, error=error)
    result = run_child(script, job, tmp_path / "child.log", forked=True)
    fit = Fit.model_validate(result["retry"])
    assert (fit.batch_size, fit.gradient_accumulation) == (4, 4)
    assert fit.reason == "memory ran out with batches of 8"
    assert last_step(job) == 3
    run_training(job.model_copy(update={"fit": fit}), lambda event: None)
    assert losses(job) == pytest.approx(never_killed, rel=1e-4)


@pytest.mark.proof
def test_one_process_running_out_of_memory_ends_the_other_too(at_home, tmp_path, never_killed):
    job = job_in(tmp_path, at_home, **CRASHED, processes=2)
    error = 'torch.OutOfMemoryError("CUDA out of memory")'
    script = wrapped(tmp_path, OUT_OF_MEMORY, error=error)
    fit = Fit.model_validate(run_child(script, job, tmp_path / "child.log", forked=True)["retry"])
    assert (fit.batch_size, fit.gradient_accumulation) == (4, 2)
    assert last_step(job) == 2
    run_training(job.model_copy(update={"fit": fit}), lambda event: None)
    assert losses(job) == pytest.approx(never_killed, rel=1e-4)


@pytest.mark.proof  # the runs of tests/flows/test_line.py train with Unsloth
def test_both_backends_learn_alike(at_home, tmp_path, never_killed):
    job = job_in(tmp_path, at_home, **CRASHED | {"backend": "unsloth"})
    events = []
    run_training(job, events.append)
    assert any("computing in float32 (as the recipe says" in e.get("text", "") for e in events)
    assert losses(job) == pytest.approx(never_killed, rel=1e-3)


@pytest.mark.slow  # a training
@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"train_on": "responses", "use_dora": True}, marks=pytest.mark.proof),
        pytest.param({"loraplus_ratio": 16.0, "packing": False}, marks=pytest.mark.proof),
        {"method": "full", "learning_rate": 1e-3},
    ],
)
def test_other_ways_to_train_learn_too(at_home, tmp_path, settings):
    import torch
    from safetensors.torch import load_file

    job = job_in(tmp_path, at_home, **CRASHED | {"max_steps": 12} | settings)
    run_training(job, lambda event: None)
    course = losses(job)
    assert course[-1] < 0.8 * course[0]
    (weights,) = (job.folder / "adapter").glob("*.safetensors")
    full = settings.get("method") == "full"
    assert weights.name == ("model.safetensors" if full else "adapter_model.safetensors")
    precision = torch.bfloat16 if full else torch.float32
    assert {tensor.dtype for tensor in load_file(weights).values()} == {precision}


def test_packed_conversations_do_not_see_each_other(at_home):
    """Logits of a conversation within a pack equal its logits alone."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(at_home.model.base, dtype=torch.float32).eval()
    rows = token_ids(at_home.chats.train, 4, 64)
    collate = make_collator(pad=0, flat=True, lengths=None)
    packs = [{"input_ids": row, "labels": row, "seq_lengths": [len(row)]} for row in rows]
    with torch.no_grad():
        together = {key: value for key, value in collate(packs).items() if key != "labels"}
        packed = model(**together, use_cache=False).logits[0]
        leaking = model(together["input_ids"]).logits[0]
        begin = 0
        for row in rows:
            alone = model(torch.tensor([row])).logits[0]
            torch.testing.assert_close(packed[begin : begin + len(row)], alone)
            begin += len(row)
    assert not torch.allclose(packed[: begin - 1], leaking[: begin - 1], atol=1e-3)


def test_the_log_is_cut_at_the_checkpoint(tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"ste')
    cut_log(log, 2)
    assert [row["step"] for row in read_json_lines(log)] == [1, 2]


def test_an_adapter_of_experts_is_whole_though_its_tensors_are_named_after_a_base(tmp_path):
    """PEFT puts one adapter around another where two tensors of a module have one."""
    import torch
    from safetensors.torch import save_file

    layer = torch.nn.Linear(2, 2)  # two trained tensors
    names = ("experts.base_layer.lora_A.weight", "experts.base_layer.lora_B.weight")
    weights = {name: torch.zeros(1) for name in names}
    save_file(weights, tmp_path / "adapter_model.safetensors")
    saving._require_saved(tmp_path, layer)
    weights = {"embed_tokens.base_layer.weight": torch.zeros(1), names[0]: torch.zeros(1)}
    save_file(weights, tmp_path / "adapter_model.safetensors")
    with pytest.raises(TrainingRefused, match="1 of 2 trained tensors"):
        saving._require_saved(tmp_path, layer)


def test_names_of_no_layer_are_refused_with_those_of_the_model(tmp_path, project):
    from retune.loaders import load_model

    job = job_in(tmp_path, project, target_modules=["qkv_proj"])
    with pytest.raises(
        TrainingRefused, match=r"has no such layers, but self_attn\.q_proj, .*=auto"
    ):
        target_modules(load_model(project.model.base), job)
