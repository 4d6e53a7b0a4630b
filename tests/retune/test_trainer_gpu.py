"""Training on a GPU, with a tiny model. Skipped without one; needs neither Prefect nor MLflow."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.train import make_model, make_rows
from retune.child import ROOT
from retune.config import Model, Training
from retune.trainer.job import Fit, TrainJob

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpu")
    make_model("tiny", folder / "model")
    make_rows(folder, folder / "model", 400)
    return folder


def job_in(folder: Path, name: str, fit: Fit | None = None, four_bits: bool = True, **settings):
    (folder / name).mkdir()
    job = TrainJob(
        rows=folder / "rows.parquet",
        held_out=folder / "rows.parquet",
        tokenizer=folder / "model",
        model=Model(base=str(folder / "model"), max_length=512, load_in_4bit=four_bits),
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


def train(job: TrainJob) -> list[float]:
    child = ROOT / "tasks" / "train" / f"{job.config.backend}_child.py"
    python(str(child), str(job.folder / "job.json"))
    return [json.loads(line)["train/loss"] for line in job.log.read_text().splitlines()]


COMPARE = """
import importlib.util, sys
from pathlib import Path
backend, job_file = sys.argv[1:]
if backend == "unsloth":
    import unsloth
import torch
from retune.models import token_ids
from retune.trainer import varlen
from retune.trainer.data import make_collator
from retune.trainer.job import TrainJob
path = f"tasks/train/{backend}_child.py"
spec = importlib.util.spec_from_file_location("child", path)
child = importlib.util.module_from_spec(spec); spec.loader.exec_module(child)
if backend == "unsloth":
    varlen.give_to_unsloth()
job = TrainJob.model_validate_json(Path(job_file).read_text())
kind = child.Unsloth() if backend == "unsloth" else child.Trl()
model = kind.load(job); kind.recompute(model, "off"); model.train()
rows = token_ids(job.rows, 6, 300)
collate = make_collator(1, True, kind.lengths)
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


@pytest.mark.parametrize("backend", ["unsloth", "trl"])
@pytest.mark.parametrize("four_bits", [True, False])
def test_packed_conversations_do_not_see_each_other(folder, backend, four_bits):
    job = job_in(folder, f"pack-{backend}-{four_bits}", four_bits=four_bits, backend=backend)
    words = python("-c", COMPARE, backend, str(job.folder / "job.json")).split()
    worst, largest = map(float, words[words.index("WORST") + 1 :][:2])
    print("largest difference", worst, "of logits up to", largest)
    assert largest > 0
    assert worst < 0.02 * largest  # bf16 has 8 bits


@pytest.mark.parametrize("backend", ["unsloth", "trl"])
def test_the_fit_does_not_change_the_course(folder, backend):
    recompute = "unsloth" if backend == "unsloth" else "on"
    fits = {
        "large": Fit(batch_size=16, gradient_accumulation=1, gradient_checkpointing="off"),
        "small": Fit(batch_size=2, gradient_accumulation=8, gradient_checkpointing=recompute),
    }
    courses = {
        name: train(job_in(folder, f"{name}-{backend}", fit, backend=backend))
        for name, fit in fits.items()
    }
    measured = job_in(folder, f"auto-{backend}", backend=backend)
    courses["measured"] = train(measured)
    print(courses, (measured.folder / "fit.json").read_text())
    assert courses["small"] == pytest.approx(courses["large"], rel=2e-3)
    assert courses["measured"] == pytest.approx(courses["large"], rel=2e-3)
    row = json.loads(measured.log.read_text().splitlines()[-1])
    assert row["gpu/memory_gib"] > 0
    assert row["gpu/power_watts"] > 0


def test_full_fine_tuning(folder):
    job = job_in(folder, "full", four_bits=False, method="full", learning_rate=1e-3)
    course = train(job)
    assert course[-1] < course[0]
    assert (job.folder / "adapter" / "model.safetensors").exists()
