"""When to stop: a training that has become hopeless, or has used up what it may cost."""

import math
from statistics import median

from retune.recipe import Training
from tasks.train.job import Hopeless, Interrupted

WINDOW = 5  # logged steps whose median is judged, so that one odd batch stops nothing
SKIPPED = 8  # fp16's loss scaling starts too high and skips some steps with an infinite norm


class Health:
    """Judges every logged step. fp16 steps may be skipped a few times, see SKIPPED."""

    def __init__(self, config: Training, steps: int, fp16: bool) -> None:
        self._config, self._steps = config, steps
        self._patience = SKIPPED if fp16 else 0
        self._losses: list[float] = []
        self._norms: list[float] = []
        self._lowest = math.inf

    def check(self, step: int, loss: float, norm: float | None, learning_rate: float) -> None:
        """Raise Hopeless if this step shows that the training cannot become good."""
        config = self._config
        if not math.isfinite(loss):
            raise self._hopeless(step, f"the loss is {loss}", norm)
        if norm is not None and not math.isfinite(norm):
            self._patience -= 1
            if self._patience < 0:
                raise self._hopeless(step, "the gradient norm is not finite", norm)
            norm = None
        if learning_rate == 0 and 1 < step < self._steps:  # warm-up begins at zero
            raise Hopeless(
                f"the learning rate is zero after step {step} of {self._steps}: nothing more would "
                f"be learned; check training.learning_rate, lr_scheduler and warmup_steps"
            )
        self._losses = [*self._losses, loss][-WINDOW:]
        self._norms = [*self._norms, *([] if norm is None else [norm])][-WINDOW:]
        if len(self._losses) == WINDOW:
            recent = median(self._losses)
            self._lowest = min(self._lowest, recent)
            # Above its lowest by a factor, and by more than a well-learned row's noise.
            if recent > max(config.max_loss_rise * self._lowest, self._lowest + 1):
                raise self._hopeless(
                    step, f"the loss rose from {self._lowest:.3g} to {recent:.3g}", norm
                )
        if len(self._norms) == WINDOW and median(self._norms) > config.max_gradient_norm:
            raise self._hopeless(
                step, f"the gradient norm stays above {config.max_gradient_norm:g}", norm
            )

    def _hopeless(self, step: int, what: str, norm: float | None) -> Hopeless:
        return Hopeless(
            f"{what} at step {step} (gradient norm {norm}): training diverged; lower "
            f"training.learning_rate (now {self._config.learning_rate:g}) or raise "
            f"training.warmup_steps (now {self._config.warmup_steps})"
        )


def over_budget(config: Training, gpu_hours: float) -> str | None:
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


def interrupted(step: int, why: str) -> Interrupted:
    return Interrupted(
        f"training ended after step {step}: {why}. The checkpoint of that step is kept; run again "
        f"(with a higher cap, if that was the reason) and it goes on from there"
    )
