"""What a run will take: judged by what earlier runs of its recipe took on such a machine.

A stage takes the median of the last runs that ran it. A training takes what its start took, and its
tokens at the speed at which they were trained. What no earlier run tells is not guessed, but named.
Every run keeps what was estimated beside what it took, so that the estimate comes with its own error.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from prefect import get_run_logger

from flows.estimate_error import EXPECTED, LOOKED_AT, TAKEN, error_of
from flows.plan import Plan
from flows.ray_cluster import on_cluster
from retune.machine import gpus, this_machine
from retune.measures import format_duration
from retune.recipe import Recipe
from retune.tracking import Run, client, newest_runs, setting_text

if TYPE_CHECKING:
    from mlflow.entities import Run as StoredRun

EXPECTED_GPU_HOURS = "run/expected_gpu_hours"
# What a training leaves by which the next one's time is known; one that ended at once may lack some.
OF_TRAINING = (
    *("train/seconds", "train/total_tokens", "train/median_tokens_per_second"),
    *("train/epoch", "train/steps"),
)
AFTER = (TAKEN, "publish/seconds")  # no part of what lies between the start and the decision
# Stages whose time is no metric of their own: side by side, or after the decision.
WITHOUT_SECONDS = frozenset({"quantize", "publish"})


class RunEstimate(NamedTuple):
    """What a run takes until it is decided on: `seconds` in all, `gpu_hours` to train.

    It is by `runs` earlier ones; no run had the stages `unknown`, whose time is left out. `error` is
    how far such estimates were off, in the median of the `judged` last ones: a share of what was taken.
    """

    seconds: float
    gpu_hours: float
    runs: int
    unknown: tuple[str, ...]
    error: float | None
    judged: int

    def text(self, price: float | None, now: datetime) -> str:
        """Return it in words; `price` is that of one GPU-hour, `now` the time at which the run begins."""
        ends = now + timedelta(seconds=self.seconds)
        day = "%H:%M" if ends.date() == now.date() else "%Y-%m-%d %H:%M"
        spent = f"{self.gpu_hours:.3f} GPU-hours" if self.gpu_hours else ""
        if spent and price:
            spent += f", {self.gpu_hours * price:,.2f}"
        words = f"about {format_duration(self.seconds)}, until {ends:{day}} UTC"
        words += f" ({spent})" if spent else ""
        if self.unknown:
            words += f", and what {', '.join(self.unknown)} will take, which no earlier run had"
        return f"{words}; {self.basis}"

    @property
    def basis(self) -> str:
        """By what it is known, and how far such estimates were off."""
        words = f"by {self.runs} earlier {'run' if self.runs == 1 else 'runs'} on such a machine"
        if self.error is None:
            return words
        if self.judged == 1:
            return f"{words}; the last estimate was {self.error:.0%} off"
        return f"{words}; the last {self.judged} estimates were {self.error:.0%} off in the median"


def estimate(recipe: Recipe, plan: Plan) -> RunEstimate | None:
    """Return what the stages of `plan` that are not done will take; None without a run to go by."""
    todo = {step.stage for step in plan.steps() if not step.done}
    runs = list(_alike(recipe))[:LOOKED_AT]
    if not runs or not todo:
        return None
    metrics = [run.data.metrics for run in runs]
    seconds, unknown = _between(metrics, todo), []
    for stage in sorted(todo - WITHOUT_SECONDS - {"train"}):
        if taken := [one[f"{stage}/seconds"] for one in metrics if f"{stage}/seconds" in one]:
            seconds += median(taken)
        else:
            unknown.append(stage)
    gpu_hours = 0.0
    if "train" in todo:
        training = _training(recipe, runs)
        if training is None:
            unknown.append("train")
        else:
            seconds += training
            shares = [
                one["train/gpu_hours"] / one["train/seconds"]
                for one in metrics
                if "train/gpu_hours" in one and one.get("train/seconds", 0) > 0
            ]
            gpu_hours = training * median(shares) if shares else 0.0
    return RunEstimate(seconds, gpu_hours, len(runs), tuple(unknown), *error_of(metrics))


def announce(run: Run, recipe: Recipe, plan: Plan) -> Callable[[], None]:
    """Say what the run will take, and keep it; return what is called when the run is decided on."""
    began = time.monotonic()
    if client().get_run(run.id).data.metrics:  # of an earlier attempt, whose time counts as well
        return lambda: None
    expected = estimate(recipe, plan)
    if expected:
        told = expected if gpus() or on_cluster() else expected._replace(gpu_hours=0.0)
        words = told.text(recipe.training.price_per_hour, datetime.now(UTC))
        get_run_logger().info("This run takes %s", words)
        if not expected.unknown:
            run.log_metrics({EXPECTED: expected.seconds, EXPECTED_GPU_HOURS: expected.gpu_hours})

    def decided() -> None:
        run.log_metrics({TAKEN: time.monotonic() - began})

    return decided


def _alike(recipe: Recipe) -> "Iterator[StoredRun]":
    """Yield the last runs of the recipe that were decided on, on a machine with these processors."""
    machine = this_machine()
    here = {
        "retune.machine.cpu": machine.cpu,
        "retune.machine.gpu": ", ".join(machine.gpus) or "none",
    }
    # Names of processors may hold what MLflow's filters cannot quote.
    for run in newest_runs(recipe, f"metrics.`{TAKEN}` > 0", 5 * LOOKED_AT):
        if here.items() <= run.data.tags.items():
            yield run


def _training(recipe: Recipe, runs: "Sequence[StoredRun]") -> float | None:
    """Return the seconds of a training of the recipe's length; None if no run tells."""
    config = recipe.training
    left = [run for run in runs if all(run.data.metrics.get(name, 0) > 0 for name in OF_TRAINING)]
    trained = [run.data.metrics for run in left]
    # The steps of a training that was cut short are no measure of an epoch.
    unset = setting_text(None)
    whole = [run for run in left if run.data.params.get("training.max_steps", unset) == unset]
    if not (trained if config.max_steps else whole):
        return None
    speed = median(one["train/median_tokens_per_second"] for one in trained)
    starts = [
        one["train/seconds"] - one["train/total_tokens"] / one["train/median_tokens_per_second"]
        for one in trained
    ]
    if config.max_steps:
        tokens = config.max_steps * trained[0]["train/total_tokens"] / trained[0]["train/steps"]
    else:
        last = whole[0].data.metrics
        tokens = config.epochs * last["train/total_tokens"] / last["train/epoch"]
    return max(0.0, median(starts)) + tokens / speed


def _between(metrics: Sequence[dict[str, float]], todo: set[str]) -> float:
    """Return the seconds that no stage's own count: files side by side, and what is between stages."""
    alike = [one for one in metrics if ("merge/seconds" in one) == ("merge" in todo)]
    return max(0.0, median([one[TAKEN] - _of_stages(one) for one in alike])) if alike else 0.0


def _of_stages(metrics: dict[str, float]) -> float:
    return sum(
        value
        for name, value in metrics.items()
        if name.endswith("/seconds") and name.count("/") == 1 and name not in AFTER
    )
