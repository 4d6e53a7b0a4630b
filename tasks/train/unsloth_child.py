"""The child process of train: Unsloth's patched model in TRL's trainer. No Prefect, no MLflow.

Unsloth patches transformers when it is imported, so it lives in a process of its own.
"""

import json
import math
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from retune.child import emit, main
from retune.config import Model, Training
from retune.models import compute_dtype, device, require_gpu_for_4bit, token_ids

if TYPE_CHECKING:
    from transformers import TrainerCallback
    from trl import SFTTrainer

# All that the trainer needs to go on from a checkpoint; a killed process leaves some of them out.
CHECKPOINT_FILES = (
    "adapter_model.safetensors",
    "optimizer.pt",
    "scheduler.pt",
    "rng_state.pth",
    "trainer_state.json",
)
METRICS = {"loss": "train/loss", "learning_rate": "train/learning_rate"} | {
    "grad_norm": "train/grad_norm",
    "epoch": "train/epoch",
}


class TrainJob(BaseModel):
    """`folder` gets `adapter/`, `checkpoints/` and `training_log.jsonl`."""

    rows: Path
    tokenizer: Path
    model: Model
    revision: str | None
    config: Training
    folder: Path

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def log(self) -> Path:
        return self.folder / "training_log.jsonl"


class Diverged(ValueError):
    """The loss is no longer a number."""


def train(job: TrainJob) -> dict[str, Any]:
    """Train the adapter, from the last whole checkpoint if there is one; return its metrics.

    Raises ValueError when the machine or the model cannot do what the recipe says, Diverged when
    the loss is not finite.
    """
    require_gpu(job.model, job.config)
    rows = token_ids(job.rows, most=2**62, max_length=job.model.max_length)
    emit("state", text="importing Unsloth")
    trainer = make_trainer(job, rows)
    checkpoint = last_checkpoint(job.checkpoints)
    step = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
    cut_log(job.log, step)
    emit("begin", step=step)
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except Diverged:
        shutil.rmtree(job.checkpoints, ignore_errors=True)  # they may hold the same poison
        raise
    except Exception as error:
        raise _explained(error, job.config) from error
    _check_trained(trainer.model)
    trainer.model.save_pretrained(job.folder / "adapter")
    trainer.processing_class.save_pretrained(job.folder / "adapter")
    return {"metrics": summary(trainer, job.log)}


def require_gpu(model: Model, config: Training) -> None:
    """Raise ValueError, before anything is loaded, for settings that need a GPU where none is."""
    require_gpu_for_4bit(model)
    if config.optimizer.endswith("8bit") and device() == "cpu":
        raise ValueError(
            f"optimizer {config.optimizer} needs a GPU, none is here; set training.optimizer=adamw_torch"
        )


def make_trainer(job: TrainJob, rows: list[list[int]]) -> "SFTTrainer":
    """Return TRL's trainer, patched by Unsloth, on rows of token ids that are already cut."""
    from unsloth import FastLanguageModel  # isort: skip  # first: it patches the others

    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import SFTTrainer

    checkpointing = {"unsloth": "unsloth", "on": True, "off": False}
    recompute = checkpointing[job.config.gradient_checkpointing]
    model, _ = FastLanguageModel.from_pretrained(
        job.model.base,
        revision=job.revision,
        max_seq_length=job.model.max_length,
        load_in_4bit=job.model.load_in_4bit,
        dtype=compute_dtype(),
        use_gradient_checkpointing=recompute,
        use_exact_model_name=True,  # else Unsloth may take another repository than the pinned one
    )
    _check_ids(rows, model.get_input_embeddings().num_embeddings)
    model = FastLanguageModel.get_peft_model(
        model,
        r=job.config.r,
        lora_alpha=job.config.alpha,
        lora_dropout=job.config.dropout,
        target_modules=list(job.config.target_modules),
        use_rslora=job.config.use_rslora,
        use_gradient_checkpointing=recompute,
        random_state=job.config.seed,
    )
    # Own labels: a collator that makes them masks every pad token, and pad may be the EOS token.
    return SFTTrainer(
        model=model,
        processing_class=AutoTokenizer.from_pretrained(job.tokenizer),
        train_dataset=Dataset.from_dict({"input_ids": rows, "labels": rows}),
        args=trainer_settings(job),
        callbacks=[_reporter(job.log)],
    )


def trainer_settings(job: TrainJob) -> Any:
    """Return the recipe as TRL's SFTConfig."""
    import torch
    from trl import SFTConfig

    config = job.config
    return SFTConfig(
        output_dir=str(job.checkpoints),
        max_length=job.model.max_length,
        packing=config.packing and device() != "cpu",  # Unsloth has no packing on a CPU
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.lr_scheduler,
        warmup_steps=config.warmup_steps,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation,
        num_train_epochs=config.epochs,
        max_steps=config.max_steps or -1,
        optim=config.optimizer,
        weight_decay=config.weight_decay,
        seed=config.seed,
        bf16=compute_dtype() == torch.bfloat16,
        fp16=compute_dtype() == torch.float16,
        use_cpu=device() == "cpu",
        dataset_num_proc=1,
        logging_steps=config.logging_steps,
        logging_nan_inf_filter=False,  # it would hide a NaN behind the last good loss
        # On a GPU batches are packed or flattened: no padding, and no mask to count by either.
        include_num_input_tokens_seen="non_padding" if device() == "cpu" else "all",
        save_strategy="steps",
        save_steps=config.checkpoint_steps,
        save_total_limit=2,
        report_to="none",
        disable_tqdm=True,
    )


def _reporter(log: Path) -> "TrainerCallback":
    """Return a callback that appends each logged step to `log` and emits it.

    The file is written here, before the trainer saves the same step's checkpoint: whatever is
    killed when, a checkpoint's steps are all in the log.
    """
    from transformers import TrainerCallback

    class Reporter(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.tokens, self.time = state.num_input_tokens_seen, time.monotonic()
            emit("steps", total=state.max_steps)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_log |= state.global_step == state.max_steps

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if "loss" not in logs:
                return  # the summary at the end
            if not math.isfinite(logs["loss"]):
                raise Diverged(_divergence(logs, state.global_step, args.learning_rate))
            now = time.monotonic()
            row = {"step": state.global_step}
            row |= {name: float(logs[key]) for key, name in METRICS.items() if key in logs}
            row["train/tokens"] = state.num_input_tokens_seen
            row["train/tokens_per_second"] = (row["train/tokens"] - self.tokens) / (now - self.time)
            self.tokens, self.time = row["train/tokens"], now
            with log.open("a") as file:
                file.write(json.dumps(row) + "\n")
            emit("log", **row)

    return Reporter()


def _divergence(logs: dict[str, Any], step: int, learning_rate: float) -> str:
    return (
        f"the loss is {logs['loss']} at step {step} (gradient norm {logs.get('grad_norm')}): training "
        f"diverged; lower training.learning_rate (now {learning_rate:g}) or raise training.warmup_steps"
    )


def last_checkpoint(folder: Path) -> Path | None:
    """Return the newest whole `checkpoint-<step>` in `folder`; None if there is none.

    One without all its files, or with an unreadable last one, was being written when its process
    was killed; it is removed.
    """
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    for path in reversed(found):
        if _is_whole(path):
            return path
        shutil.rmtree(path)
    return None


def _is_whole(checkpoint: Path) -> bool:
    if not all((checkpoint / name).is_file() for name in CHECKPOINT_FILES):
        return False
    try:  # written last
        json.loads((checkpoint / "trainer_state.json").read_text())
    except ValueError:
        return False
    return True


def cut_log(log: Path, step: int) -> None:
    """Drop the lines of a training log after `step`; they will be written again."""
    lines = log.read_text().splitlines(keepends=True) if log.exists() else []
    # A last line without its end was being written when the process was killed.
    whole = (line for line in lines if line.endswith("\n"))
    log.write_text("".join(line for line in whole if json.loads(line)["step"] <= step))


def summary(trainer: "SFTTrainer", log: Path) -> dict[str, float]:
    """Return the adapter's metrics; peak memory is in GiB.

    None has the name of a logged one: MLflow would make one curve of both.
    """
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    # The first step of a process also pays for compilation.
    speeds = [row["train/tokens_per_second"] for row in rows[1:] or rows]
    trainable, total = trainer.model.get_nb_trainable_parameters()
    return {
        "final_loss": rows[-1]["train/loss"],
        "steps": trainer.state.global_step,
        "total_tokens": trainer.state.num_input_tokens_seen,
        "median_tokens_per_second": sorted(speeds)[len(speeds) // 2],
        "trainable_parameters": trainable,
        "trainable_share": trainable / total,
        "peak_memory_gib": peak_memory_gib(),
    }


def peak_memory_gib() -> float:
    """Return the most memory this process ever used, in GiB: the GPU's, or main memory without."""
    import resource

    import torch

    if device() == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _check_ids(rows: list[list[int]], embeddings: int) -> None:
    largest = max(max(ids) for ids in rows)
    if largest >= embeddings:
        raise ValueError(
            f"the training rows use token id {largest}, but the base model has {embeddings} embeddings; "
            f"choose a base model that fits its own tokenizer"
        )


def _check_trained(model: Any) -> None:
    weights = [value for name, value in model.named_parameters() if "lora_B" in name]
    if not any(weight.any() for weight in weights):
        raise ValueError(
            "the adapter is still zero after training: nothing was learned; train for more steps "
            "or raise training.learning_rate"
        )
    if not all(weight.isfinite().all() for weight in weights):
        raise Diverged("the adapter holds values that are not finite; lower training.learning_rate")


def _explained(error: Exception, config: Training) -> Exception:
    import torch

    if not isinstance(error, torch.cuda.OutOfMemoryError):
        return error
    return ValueError(
        f"the GPU's memory is too small: halve training.batch_size (now {config.batch_size}) and "
        f"double training.gradient_accumulation (now {config.gradient_accumulation}), or shorten "
        f"model.max_length"
    )


if __name__ == "__main__":
    main(TrainJob, train)
