"""The callback that watches a training: health, caps, signals, the log and checkpoints.

At the end of each optimizer step the trainer calls `on_step_end`, `on_log`, writes the checkpoint,
and calls `on_save`. A step's row is therefore in the log before its checkpoint exists, so that
after a kill at any moment no step is missing in the log or in it twice.
"""

import signal
import threading
import time
from typing import Any

import torch
from transformers import Trainer, TrainerCallback

from retune.child import emit
from retune.models import compute_dtype
from tasks.train import checkpoints, meter, training_log
from tasks.train.data import TrainingPlan
from tasks.train.distributed import gathered, is_first, world_size
from tasks.train.health import Health, exhausted_cap
from tasks.train.job import TrainJob
from tasks.train.objective import Objective
from tasks.train.parts import Disks

USAGE_SECONDS = 10  # between two writes of the usage file


class Watcher(TrainerCallback):
    """Decides at each step whether to log, to save and to stop."""

    def __init__(
        self,
        job: TrainJob,
        objective: Objective,
        trainer: Trainer,
        plan: TrainingPlan,
        disks: Disks,
    ) -> None:
        self.usage = meter.Usage(job.usage, gpus=max(1, world_size()))
        self.stop_reason: str | None = None  # a signal or a cap, as a clause
        self._job, self._objective, self._trainer, self._plan = job, objective, trainer, plan
        self._disks = disks
        self._signal_reason: str | None = None
        self._health = Health(job.config, plan.steps, compute_dtype() == torch.float16)
        self._checkpoint_loss = 0.0  # held-out, of the checkpoint that is being written
        self._unlogged_loss: float | None = None  # the same until it is in the log
        self._flops = meter.flops_per_token(trainer.model, plan.square_tokens)
        self._last_save = self._last_record = time.monotonic()
        # Python lets no other thread, such as that of Ray Train, handle signals: whoever runs the
        # training there ends it.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: Any) -> None:
        self._signal_reason = f"it was told to end by {signal.Signals(number).name}"

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.ceiling = meter.matmul_ceiling() * world_size()
        self._logged_step, self._logged_time = state.global_step, time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        config, step = self._job.config, state.global_step
        reason = self._signal_reason or exhausted_cap(config, self.usage.gpu_hours())
        due = time.monotonic() - self._last_save >= 60 * config.checkpoint_minutes
        due |= bool(config.checkpoint_steps) and step % config.checkpoint_steps == 0
        due |= step == self._plan.steps
        # The first process's clock decides on checkpoints; any host may be told to end.
        votes = gathered((due, reason))
        due, self.stop_reason = votes[0][0], next(filter(None, (vote[1] for vote in votes)), None)
        control.should_training_stop |= bool(self.stop_reason)
        control.should_save = due or bool(self.stop_reason)
        control.should_log |= control.should_save
        if control.should_save:
            self._checkpoint_loss = self._objective.held_out_loss(self._trainer)
            self._unlogged_loss = self._checkpoint_loss

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if "loss" not in logs:
            return  # the summary at the end
        step, rate = state.global_step, logs["learning_rate"]
        norm = logs.get("grad_norm")
        self._health.check(step, float(logs["loss"]), norm and float(norm), rate)
        if is_first():
            self._log(step, logs)

    def _log(self, step: int, logs: dict[str, Any]) -> None:
        now = time.monotonic()
        row = self._row(step, logs, now - self._logged_time)
        self._logged_step, self._logged_time = step, now
        self._unlogged_loss = None
        training_log.append(self._job.log, row)
        emit("log", **row)
        if now - self._last_record > USAGE_SECONDS:
            self._last_record = now
            self.usage.record()

    def _row(self, step: int, logs: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Return the log's row of `step`, `seconds` after the one before."""
        tokens = int(self._plan.tokens[step - 1])
        before = int(self._plan.tokens[self._logged_step - 1]) if self._logged_step else 0
        speed = (tokens - before) / seconds
        row = {
            "step": step,
            "train/loss": float(logs["loss"]),
            "train/learning_rate": logs["learning_rate"],
            "train/epoch": logs["epoch"] * self._job.config.epochs,
            "train/tokens": tokens,
            "train/tokens_per_second": speed,
            "train/mfu": speed * self._flops / self.ceiling,
        }
        if "grad_norm" in logs:
            row["train/grad_norm"] = float(logs["grad_norm"])
        if self._unlogged_loss is not None:
            row["train/held_out_loss"] = self._unlogged_loss
        return row | meter.readings()

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        # Each process writes its own random state into the checkpoint.
        self._disks.gather(self._checkpoint(state.global_step))
        if is_first():
            checkpoints.seal(self._checkpoint(state.global_step), self._checkpoint_loss)
            checkpoints.retain(self._job.checkpoints)
            self.usage.record()
        self._last_save = time.monotonic()

    def save(self) -> None:
        """Write a checkpoint now, outside the trainer's own loop."""
        trainer = self._trainer
        if not (self._checkpoint(trainer.state.global_step) / checkpoints.SEAL).exists():
            self._checkpoint_loss = self._objective.held_out_loss(trainer)
            model: Any = trainer.model
            trainer._save_checkpoint(model, trial=None)
            self.on_save(trainer.args, trainer.state, trainer.control)

    def _checkpoint(self, step: int) -> Any:
        return self._job.checkpoints / f"checkpoint-{step}"
