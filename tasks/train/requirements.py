"""What training needs of the machine and the model; what is missing is refused with its remedy."""

import hashlib
import os
from typing import Any

from retune.files import sha256
from retune.models import compute_dtype, device, require_gpu_for_4bit
from retune.recipe import Training
from tasks.train.data import TrainingPlan
from tasks.train.distributed import gathered, world_size
from tasks.train.job import TrainingRefused, TrainJob

FP8 = (8, 9)  # the first compute capability with matrix products of 8-bit floats


def require_gpu(job: TrainJob) -> None:
    """Raise TrainingRefused, before anything is loaded, for settings that need another GPU."""
    require_gpu_for_4bit(job.model)
    if job.config.optimizer.endswith("8bit") and device() == "cpu":
        raise TrainingRefused(
            f"optimizer {job.config.optimizer} needs a GPU, none is here; set "
            f"training.optimizer=adamw_torch"
        )
    if job.config.shard and device() == "cpu":
        raise TrainingRefused("sharding a model needs GPUs, none is here; set training.shard=false")
    if job.config.fp8:
        _require_fp8()
    if device() == "cuda":
        _require_bf16(job.config)
        _require_gpu_count(int(os.environ.get("LOCAL_WORLD_SIZE", job.config.processes)))


def _require_fp8() -> None:
    """Raise TrainingRefused where the GPU has no products of 8-bit floats."""
    import torch

    if device() == "cuda" and torch.cuda.get_device_capability() >= FP8:
        return
    found = torch.cuda.get_device_name() if device() == "cuda" else "no GPU"
    raise TrainingRefused(
        f"training.fp8=true needs a GPU that multiplies 8-bit floats (compute capability 8.9: Ada, "
        f"Hopper or newer), this is {found}; set training.fp8=false"
    )


def _require_bf16(config: Training) -> None:
    """Raise TrainingRefused on a GPU older than Ampere for settings that do not work with fp16.

    fp16 needs gradient scaling, which is untested with the gradients of a sharded model.
    """
    import torch

    if compute_dtype() != torch.float16:
        return
    for setting, alternative, is_set in (
        ("shard=true", "shard=false", config.shard),
        ("master_weights=bfloat16", "master_weights=float32", config.master_weights == "bfloat16"),
    ):
        if is_set:
            raise TrainingRefused(
                f"training.{setting} needs a GPU that computes in bf16 (Ampere or newer), this is a "
                f"{torch.cuda.get_device_name()}; set training.{alternative}"
            )


def _require_gpu_count(processes: int) -> None:
    import torch

    if torch.cuda.device_count() < processes:
        raise TrainingRefused(
            f"training.processes={processes} needs that many GPUs, {torch.cuda.device_count()} can be "
            f"seen; set training.processes={torch.cuda.device_count()}, or look at CUDA_VISIBLE_DEVICES"
        )


def require_embeddings(plan: TrainingPlan, model: Any) -> None:
    """Raise TrainingRefused for a token id in the training rows that the model has no embedding for."""
    embeddings = len(model.get_input_embeddings().weight)
    if plan.largest_token >= embeddings:
        raise TrainingRefused(
            f"the training rows use token id {plan.largest_token}, but the base model has {embeddings} "
            f"embeddings; choose a base model that fits its own tokenizer"
        )


def require_same(job: TrainJob, model: Any) -> None:
    """Raise TrainingRefused unless all processes have the same job: one with other rows, settings or
    weights would spoil the training of all, and nothing would show it."""
    if world_size() == 1:
        return
    first, *others = gathered(
        {
            "training rows": sha256(job.rows),
            "held-out rows": sha256(job.held_out),
            "model settings": job.model.model_dump_json(exclude={"base"}),
            "training settings": job.config.model_dump_json(exclude={"processes"}),
            "model revision": str(job.revision),
            "base weights": _sample(model),
        }
    )
    for number, theirs in enumerate(others, start=1):
        differing = [name for name in first if theirs[name] != first[name]]
        if differing:
            raise TrainingRefused(
                f"process {number} of {world_size()} has other {', '.join(differing)} than process 0: "
                f"all hosts of a training need the same job and the same base"
            )


def _sample(model: Any) -> str:
    """Return a hash of the first numbers of all weights that are as they were read."""
    read = hashlib.sha256()
    for name, weight in model.named_parameters():
        # An adapter is drawn, and a GPU of another kind may round otherwise to 4 bits.
        if weight.is_floating_point() and "lora_" not in name:
            read.update(weight.detach().flatten()[:8].float().cpu().numpy().tobytes())
    return read.hexdigest()
