"""The training log, a JSON line per logged step, and the metrics that a training ends with."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.train import meter
from tasks.train.job import TrainJob

if TYPE_CHECKING:
    from transformers import Trainer


def append(log: Path, row: dict[str, Any]) -> None:
    """Add a row; it is on the disk when this returns."""
    with log.open("a") as file:
        file.write(json.dumps(row) + "\n")
        file.flush()
        os.fsync(file.fileno())


def cut_log(log: Path, step: int) -> None:
    """Remove the rows after `step`; they will be written again."""
    lines = log.read_text().splitlines(keepends=True) if log.exists() else []
    # A last line without its end was being written when the process was killed.
    complete = (line for line in lines if line.endswith("\n"))
    remaining = "".join(line for line in complete if json.loads(line)["step"] <= step)
    temporary = log.with_suffix(".cut")
    temporary.write_text(remaining)
    temporary.rename(log)


def summary(
    job: TrainJob, trainer: "Trainer", usage: meter.Usage, ceiling: float
) -> dict[str, float]:
    """Return the adapter's metrics; `ceiling` is in FLOP/s, peak memory in GiB.

    None has the name of a logged one: MLflow would draw both as one curve.
    """
    rows = [json.loads(line) for line in job.log.read_text().splitlines()]
    # The first step of a process includes compilation.
    later = rows[1:] or rows
    model: Any = trainer.model
    parameters = list(model.parameters())
    trainable = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    total = model.num_parameters()
    return {
        "final_loss": rows[-1]["train/loss"],
        "final_held_out_loss": rows[-1]["train/held_out_loss"],
        "steps": trainer.state.global_step,
        "total_tokens": rows[-1]["train/tokens"],
        "median_tokens_per_second": _median([row["train/tokens_per_second"] for row in later]),
        "median_mfu": _median([row["train/mfu"] for row in later]),
        "matmul_ceiling_tflops": ceiling / 1e12,
        "trainable_parameters": trainable,
        "trainable_share": trainable / total,
        "peak_memory_gib": meter.peak_memory_gib(),
        **usage.totals(job.config.price_per_hour),
    }


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]
