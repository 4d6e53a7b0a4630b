"""Training on a GPU, with a tiny model. Skipped without one; needs neither Prefect nor MLflow."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from benchmarks.train import make_model, make_rows
from retune.child import ChildFailed, ChildRefused, Event, run_child
from retune.environment import ROOT
from retune.recipe import Model, Training
from tasks.train.checkpoints import newest_whole, step_of
from tasks.train.fused import fuse_layers
from tasks.train.job import Fit, TrainJob
from tasks.train.requirements import FP8

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")

CONTEXT_GIB = 1.0  # what CUDA and its libraries hold of a card for one process
NCCL_GIB = 0.5  # and what several processes take besides, to talk to each other
FULL = {"method": "full", "four_bits": False}
two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpu")
    make_model("tiny", folder / "model")
    make_rows(folder, folder / "model", 400)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNSLOTH_COMPILE_LOCATION", str(folder / "compiled"))
        yield folder


def job_in(
    folder: Path,
    name: str,
    fit: Fit | None = None,
    four_bits: bool = True,
    length: int = 512,
    **settings,
) -> TrainJob:
    (folder / name).mkdir()
    job = TrainJob(
        rows=folder / "rows.parquet",
        held_out=folder / "rows.parquet",
        tokenizer=folder / "model",
        model=Model(base=str(folder / "model"), max_length=length, load_in_4bit=four_bits),
        revision=None,
        config=Training(max_steps=5, warmup_steps=1, **settings),
        folder=folder / name,
        fit=fit,
    )
    (job.folder / "job.json").write_text(job.model_dump_json())
    return job


def python(*arguments: str) -> str:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    environment = os.environ | {"PYTHONPATH": path, "UNSLOTH_RETURN_LOGITS": "1"}
    ended = subprocess.run(
        [sys.executable, "-P", *arguments], capture_output=True, text=True, env=environment
    )
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    return ended.stdout


def child_script(backend: str) -> Path:
    return ROOT / "tasks" / "train" / f"{backend}_child.py"


def child_of(job: TrainJob, on_event: Callable[[Event], None] = lambda event: None) -> Event:
    script = child_script(job.config.backend)
    return run_child(script, job, job.folder / "train.log", on_event, grace=60)


def train(job: TrainJob) -> list[float]:
    assert "metrics" in child_of(job)
    return losses(job)


def losses(job: TrainJob) -> list[float]:
    return [json.loads(line)["train/loss"] for line in job.log.read_text().splitlines()]


COMPARE = """
import importlib.util, sys
from pathlib import Path
name, job_file = sys.argv[1:]
if name == "unsloth":
    import unsloth
import torch
from retune.models import token_ids
from tasks.train import varlen
from tasks.train.data import make_collator
from tasks.train.job import TrainJob
path = f"tasks/train/{name}_child.py"
spec = importlib.util.spec_from_file_location("child", path)
child = importlib.util.module_from_spec(spec); spec.loader.exec_module(child)
if name == "unsloth":
    varlen.give_to_unsloth()
job = TrainJob.model_validate_json(Path(job_file).read_text())
backend = child.Unsloth() if name == "unsloth" else child.Trl()
model = backend.load(job); backend.recompute(model, "off"); model.train()
rows = token_ids(job.rows, 6, 300)
collate = make_collator(1, True, backend.lengths)
def logits(rows):
    packs = [{"input_ids": r, "labels": r, "seq_lengths": [len(r)]} for r in rows]
    batch = collate(packs); batch.pop("labels")
    batch = {k: v.cuda() if torch.is_tensor(v) else v for k, v in batch.items()}
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        return model(**batch, use_cache=False).logits[0].float()
packed, begin, worst = logits(rows), 0, 0.0
for row in rows:
    alone = logits([row])[: len(row)]
    worst = max(worst, (packed[begin : begin + len(row)] - alone).abs().max().item())
    begin += len(row)
print("WORST", worst, packed.abs().max().item())
"""


AS_LIBRARIES_DO = """
import sys
from pathlib import Path
from trl import SFTTrainer
from tasks.train import adapted, trainer, trl_child
from tasks.train.job import TrainJob
adapted.fuse_adapters = lambda model: 0
trainer.let_optimizer_run_ahead = lambda: None
trl_child.Trl.trainer_class = lambda self: SFTTrainer
trl_child.train(TrainJob.model_validate_json(Path(sys.argv[1]).read_text()))
"""


@pytest.mark.parametrize("train_on", ["all", "responses"])
def test_what_saves_time_changes_no_course(folder, train_on):
    settings = {"backend": "trl", "train_on": train_on, "memory": "as_written"}
    settings |= {"batch_size": 4, "gradient_accumulation": 2, "gradient_checkpointing": "off"}
    plain = job_in(folder, f"plain-{train_on}", **settings)
    python("-c", AS_LIBRARIES_DO, str(plain.folder / "job.json"))
    lean = train(job_in(folder, f"lean-{train_on}", **settings))
    assert lean == pytest.approx(losses(plain), rel=5e-4)
    fit = Fit(batch_size=4, gradient_accumulation=2, gradient_checkpointing="off", dequantized=True)
    kept = train(job_in(folder, f"kept-{train_on}", fit=fit, **settings))
    assert kept == pytest.approx(lean, rel=1e-5)


@pytest.mark.parametrize("backend", ["unsloth", "trl"])
@pytest.mark.parametrize(
    ("method", "four_bits"), [("lora", True), ("lora", False), ("full", False)]
)
def test_packed_conversations_do_not_see_each_other(folder, backend, method, four_bits):
    name = f"pack-{backend}-{method}-{four_bits}"
    job = job_in(folder, name, four_bits=four_bits, backend=backend, method=method)
    words = python("-c", COMPARE, backend, str(job.folder / "job.json")).split()
    worst, largest = map(float, words[words.index("WORST") + 1 :][:2])
    print("largest difference", worst, "of logits up to", largest)
    assert largest > 0
    assert worst < 0.02 * largest  # bf16 has 8 bits


ARCHITECTURES = ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3", "granite"]
ARCHITECTURES += ["olmo2", "smollm3", "glm4"]
TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 128}
TINY |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
TINY |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_fused_layers_compute_what_the_plain_ones_do(architecture):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[architecture](**TINY)).cuda()
    for name, parameter in model.named_parameters():
        if "norm" in name:  # else all ones, or all zeros
            parameter.data += 0.1 * torch.randn_like(parameter)
    ids = torch.randint(3, TINY["vocab_size"], (1, 24), device="cuda")
    plain = logits_and_gradient(model, ids)
    fuse_layers(model)
    fused = logits_and_gradient(model, ids)
    assert any("Liger" in repr(layer) for layer in model.modules())
    for ours, theirs in zip(fused, plain, strict=True):
        assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max()


def logits_and_gradient(model, ids):
    """Return the logits, and the loss's gradient with respect to the embeddings."""
    model.zero_grad()
    output = model(ids, labels=ids)
    output.loss.backward()
    return output.logits.detach(), model.get_input_embeddings().weight.grad.clone()


@pytest.mark.parametrize("backend", ["unsloth", "trl"])
def test_the_fit_does_not_change_the_course(folder, backend):
    recompute = "unsloth" if backend == "unsloth" else "on"
    fits = {
        "large": Fit(batch_size=16, gradient_accumulation=1, gradient_checkpointing="off"),
        "small": Fit(batch_size=2, gradient_accumulation=8, gradient_checkpointing=recompute),
    }
    settings = {"backend": backend, "learning_rate": 3e-3}
    courses = {
        name: train(job_in(folder, f"{name}-{backend}", fit, **settings))
        for name, fit in fits.items()
    }
    measured = job_in(folder, f"auto-{backend}", **settings)
    courses["measured"] = train(measured)
    print(courses, (measured.folder / "fit.json").read_text())
    assert courses["small"] == pytest.approx(courses["large"], rel=5e-4)
    assert courses["measured"] == pytest.approx(courses["large"], rel=5e-4)
    row = json.loads(measured.log.read_text().splitlines()[-1])
    assert row["gpu/memory_gib"] > 0
    assert row["gpu/power_watts"] > 0


@pytest.mark.parametrize("backend", ["unsloth", "trl"])
@pytest.mark.parametrize(
    "settings",
    [{"use_dora": True, "train_on": "responses"}, {"loraplus_ratio": 16.0, "packing": False}],
)
def test_other_ways_to_train_learn_too(folder, backend, settings):
    name = "-".join([backend, *settings])
    course = train(job_in(folder, name, backend=backend, learning_rate=3e-3, **settings))
    print(course)
    assert course[-1] < course[0] - 0.05
    weights = load_file(folder / name / "adapter" / "adapter_model.safetensors")
    assert any("magnitude" in key for key in weights) == ("use_dora" in settings)


# A card from before Ampere: no bf16, and not PyTorch's kernel for packs.
OLD_CARD = """
import runpy, torch
from retune import models
models.compute_dtype = lambda: torch.float16  # before the trainer's modules import it
from tasks.train import varlen
varlen.supported = lambda: False
runpy.run_path({child!r}, run_name="__main__")
"""


@pytest.mark.parametrize("backend", ["unsloth", "trl"])
@pytest.mark.parametrize(
    "settings", [{"learning_rate": 3e-3}, FULL | {"learning_rate": 1e-3}], ids=["lora", "full"]
)
def test_fp16_as_on_older_cards_takes_the_same_course(folder, backend, settings):
    settings = settings | {"backend": backend}
    name = f"{backend}-{settings.get('method', 'lora')}"
    job = job_in(folder, f"old-{name}", **settings)
    script = job.folder / "child.py"
    script.write_text(OLD_CARD.format(child=str(child_script(backend))))
    assert "metrics" in run_child(script, job, job.folder / "train.log")
    course, newer = losses(job), train(job_in(folder, f"new-{name}", **settings))
    print(course, newer)
    assert course == pytest.approx(newer, rel=2e-3)


@pytest.mark.parametrize("backend", ["unsloth", "trl"])
def test_full_fine_tuning(folder, backend):
    job = job_in(folder, f"full-{backend}", backend=backend, learning_rate=1e-3, **FULL)
    course = train(job)
    print(course)
    assert course[-1] < course[0] - 0.05
    weights = load_file(job.folder / "adapter" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}


@pytest.mark.parametrize("backend", ["unsloth", "trl"])
def test_small_updates_of_all_weights_add_up(folder, backend):
    """Each is far below half a unit in the last place of nearly all weights in bf16."""
    settings = FULL | {"backend": backend, "learning_rate": 1e-6, "lr_scheduler": "constant"}
    moved = {}
    for precision in ("float32", "bfloat16"):
        job = job_in(folder, f"{precision}-{backend}", master_weights=precision, **settings)
        train(job)
        before = load_file(folder / "model" / "model.safetensors")
        after = load_file(newest_whole(job.checkpoints) / "model.safetensors")
        same = sum((after[name].float() == before[name].float()).sum().item() for name in before)
        moved[precision] = 1 - same / sum(tensor.numel() for tensor in before.values())
    print(moved)
    assert moved["float32"] > 0.9
    assert moved["bfloat16"] < 0.1


# With two processes too there are several passes to a step.
RESUMED = {
    "checkpoint_steps": 2,
    "memory": "as_written",
    "batch_size": 2,
    "gradient_accumulation": 4,
}
RECOMPUTE = {"unsloth": "unsloth", "trl": "on"}


def resumed(backend: str, **settings: object) -> dict[str, object]:
    return RESUMED | {"backend": backend, "gradient_checkpointing": RECOMPUTE[backend]} | settings


@pytest.fixture(scope="module")
def whole(folder):
    """Losses of the trainings that others disturb or do with more processes."""

    @cache
    def of(backend: str, **settings: object) -> list[float]:
        name = "-".join(["whole", backend, *map(str, settings.values())])
        return train(job_in(folder, name, **resumed(backend, **settings)))

    return of


@pytest.mark.parametrize("backend", ["unsloth", "trl"])
@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_training_goes_on_where_it_was(folder, whole, backend, kill):
    job = job_in(folder, f"{kill.name}-{backend}", **resumed(backend))
    before = set(psutil.Process().children())  # a fork server of other tests may be among them

    def end_it(event):
        if event["event"] == "log" and event["step"] == 3:
            (child,) = set(psutil.Process().children()) - before
            child.send_signal(kill)

    with pytest.raises((ChildFailed, ChildRefused), match=kill.name):
        child_of(job, end_it)
    assert 2 <= step_of(newest_whole(job.checkpoints)) < 5
    child_of(job)
    rows = [json.loads(line) for line in job.log.read_text().splitlines()]
    print([row["train/loss"] for row in rows], whole(backend))
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    assert [row["train/loss"] for row in rows] == pytest.approx(whole(backend), rel=1e-4)


LARGE = Fit(batch_size=16, gradient_accumulation=1, gradient_checkpointing="off")
# A step that takes much more than the rest of a process does, and a rate at which the loss falls.
LONG = {"length": 16384, "optimizer": "adamw_torch", "learning_rate": 3e-3}


@pytest.mark.parametrize("backend", ["unsloth", "trl"])
def test_running_out_of_memory_steps_down_and_keeps_the_course(folder, monkeypatch, backend):
    """Another program fills the card up to half of what the step would take."""
    monkeypatch.setenv("UNSLOTH_CE_LOSS_TARGET_GB", "0.25")  # else its loss takes what is free
    free = job_in(folder, f"free-{backend}", LARGE, backend=backend, **LONG)
    peak = child_of(free)["metrics"]["peak_memory_gib"]
    job = job_in(folder, f"short-{backend}", LARGE, backend=backend, **LONG)
    fits, result = stepping_down(job, peak / 2, "cuda:0")
    print("peak", peak, "fits", fits, "then", result["metrics"]["peak_memory_gib"])
    print(losses(job), losses(free))
    assert fits
    assert result["metrics"]["peak_memory_gib"] < peak
    assert losses(job) == pytest.approx(losses(free), rel=5e-4)


def stepping_down(job: TrainJob, gib: float, gpu: str) -> tuple[list[Fit], Event]:
    """Train with only `gib` left on `gpu`; return the fits that followed, and the result."""
    left = int((gib + CONTEXT_GIB) * 2**30)
    ballast = torch.empty(torch.cuda.mem_get_info(gpu)[0] - left, dtype=torch.uint8, device=gpu)
    fits = []
    try:
        while "retry" in (result := child_of(job)):
            fits.append(Fit.model_validate(result["retry"]))
            job = job.model_copy(update={"fit": fits[-1]})
    finally:
        del ballast
        torch.cuda.empty_cache()
    return fits, result


def test_a_split_4_bit_model_learns_as_a_whole_one(folder, whole, monkeypatch):
    """FSDP2 over all GPUs; with one, the launcher's environment makes a group of one."""
    count = min(2, torch.cuda.device_count())
    settings = {"optimizer": "adamw_torch", "learning_rate": 3e-3}
    job = job_in(folder, "split", **resumed("trl", shard=True, processes=count, **settings))
    expected = whole("trl", **settings)
    if count == 1:
        alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
        for name, value in (alone | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29512"}).items():
            monkeypatch.setenv(name, value)
    course = train(job)
    print(course, expected)
    assert course == pytest.approx(expected, rel=1e-3)
    assert (job.folder / "adapter" / "adapter_model.safetensors").stat().st_size > 10_000


@two_gpus
@pytest.mark.parametrize("memory", ["as_written", "auto"])
def test_two_processes_train_as_one(folder, whole, memory):
    job = job_in(folder, f"two-{memory}", **resumed("trl", processes=2, memory=memory))
    course = train(job)
    print(course, whole("trl"), (job.folder / "fit.json").read_text())
    assert course == pytest.approx(whole("trl"), rel=1e-4)


@two_gpus
def test_one_full_gpu_makes_both_processes_step_down(folder):
    fit = Fit(batch_size=8, gradient_accumulation=1, gradient_checkpointing="off")
    free = job_in(folder, "free-two", fit, backend="trl", processes=2, **LONG)
    peak = child_of(free)["metrics"]["peak_memory_gib"]
    job = job_in(folder, "short-two", fit, backend="trl", processes=2, **LONG)
    fits, _ = stepping_down(job, peak / 2 + NCCL_GIB, "cuda:1")
    print("peak", peak, "fits", fits)
    print(losses(job), losses(free))
    assert fits
    assert losses(job) == pytest.approx(losses(free), rel=5e-4)


fp8_gpu = pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.get_device_capability() < FP8,
    reason="needs a GPU that multiplies 8-bit floats",
)


@fp8_gpu
def test_the_kernel_rounds_rows_as_the_arithmetic_does():
    from tasks.train.fp8 import rounded

    torch.manual_seed(0)
    for rows, columns in ((70, 64), (33, 576), (5, 14336)):
        matrix = torch.randn(rows, columns, device="cuda", dtype=torch.bfloat16)
        matrix[0] = 0
        (values, scales), (expected, factors) = rounded(matrix), rounded(matrix.cpu())
        assert torch.allclose(scales.cpu(), factors, rtol=1e-6)
        differing = (values.cpu().float() != expected.float()).float().mean()
        assert differing < 1e-3  # a division that is rounded the other way


@fp8_gpu
def test_a_base_in_fp8_trains_nearly_the_same(folder):
    exact = train(job_in(folder, "exact", backend="trl"))
    rounded = train(job_in(folder, "rounded", backend="trl", fp8=True))
    assert rounded != exact
    assert max(abs(one / other - 1) for one, other in zip(rounded, exact, strict=True)) < 5e-3
