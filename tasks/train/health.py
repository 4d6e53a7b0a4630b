"""When to stop a training: it diverged, or has reached a cap of the recipe."""

import math
from statistics import median

from retune.recipe import Training
from tasks.train.job import TrainingDiverged, TrainingInterrupted

WINDOW = 5  # logged steps whose median counts, so that one odd batch stops nothing
SKIPPED_STEPS = 8  # fp16's loss scaling starts too high: the first steps may have an infinite norm


class Health:
    """Checks every logged step. With fp16 a few first steps may be skipped, see SKIPPED_STEPS."""

    def __init__(self, config: Training, steps: int, fp16: bool) -> None:
        self._config, self._steps = config, steps
        self._skips_left = SKIPPED_STEPS if fp16 else 0
        self._losses: list[float] = []
        self._norms: list[float] = []
        self._lowest = math.inf

    def check(self, step: int, loss: float, norm: float | None, learning_rate: float) -> None:
        """Raise TrainingDiverged if this step shows that no usable model can come of it."""
        config = self._config
        if not math.isfinite(loss):
            raise self._diverged(step, f"the loss is {loss}", norm)
        if norm is not None and not math.isfinite(norm):
            self._skips_left -= 1
            if self._skips_left < 0:
                raise self._diverged(step, "the gradient norm is not finite", norm)
            norm = None
        if learning_rate == 0 and 1 < step < self._steps:  # warm-up begins at zero
            raise TrainingDiverged(
                f"the learning rate is zero after step {step} of {self._steps}: nothing more would "
                f"be learned; check training.learning_rate, lr_scheduler and warmup_steps"
            )
        self._losses = [*self._losses, loss][-WINDOW:]
        self._norms = [*self._norms, *([] if norm is None else [norm])][-WINDOW:]
        if len(self._losses) == WINDOW:
            recent = median(self._losses)
            self._lowest = min(self._lowest, recent)
            # By a factor, and by more than the noise of rows that are learned well.
            if recent > max(config.max_loss_rise * self._lowest, self._lowest + 1):
                raise self._diverged(
                    step, f"the loss rose from {self._lowest:.3g} to {recent:.3g}", norm
                )
        if len(self._norms) == WINDOW and median(self._norms) > config.max_gradient_norm:
            raise self._diverged(
                step, f"the gradient norm stays above {config.max_gradient_norm:g}", norm
            )

    def _diverged(self, step: int, symptom: str, norm: float | None) -> TrainingDiverged:
        return TrainingDiverged(
            f"{symptom} at step {step} (gradient norm {norm}): training diverged; lower "
            f"training.learning_rate (now {self._config.learning_rate:g}) or raise "
            f"training.warmup_steps (now {self._config.warmup_steps})"
        )


def exhausted_cap(config: Training, gpu_hours: float) -> str | None:
    """Return which cap of the recipe `gpu_hours` has reached, as a clause; None if none."""
    if config.max_gpu_hours is not None and gpu_hours >= config.max_gpu_hours:
        return (
            f"{gpu_hours:.3g} GPU-hours are used, training.max_gpu_hours={config.max_gpu_hours:g}"
        )
    if config.max_cost is not None and config.price_per_hour is not None:
        cost = gpu_hours * config.price_per_hour
        if cost >= config.max_cost:
            return f"{cost:.3g} is spent, training.max_cost={config.max_cost:g}"
    return None


def interrupted(step: int, reason: str) -> TrainingInterrupted:
    return TrainingInterrupted(
        f"training ended after step {step}: {reason}. The checkpoint of that step is kept; run again "
        f"(with a higher cap, if that was the reason) and it goes on from there"
    )
