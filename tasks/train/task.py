"""train: a LoRA adapter by supervised fine-tuning, in a child process that can be resumed."""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any

from prefect import get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact

from expectations import training
from expectations.verdicts import Rejected
from retune.child import ChildRefused, Event, dismiss_child, prepare_child, run_child
from retune.environment import of_launcher
from retune.machine import cores, free_memory, gpus
from retune.recipe import Recipe
from retune.records import Adapter, Chats, Pins
from retune.sources import require_unchanged
from retune.tracking import Run, client, watch_machine
from retune.workspace import Step, building, cache_dir, remove
from tasks.stage import stage
from tasks.train.job import Fit, TrainJob

FINISHING = 120  # seconds that a child which is told to end has for its last step and checkpoint
NOTHING: Mapping[str, str] = MappingProxyType({})
# With less, what prepares the data would wait for Unsloth's import, or be short of memory.
FEWEST_CORES, LEAST_MEMORY = 4, 16 * 2**30
LOG_LINES = 8  # in a run, besides the first and the last
PROGRESS_SECONDS = 2  # between two updates of the progress artifact, at least


@stage(name="train")
def train(chats: Chats, run: Run, recipe: Recipe, pins: Pins, step: Step) -> Adapter:
    """Train the adapter; a run that was killed goes on from its last checkpoint.

    `run` follows it live. Raises Rejected for a training that diverged.
    """
    model = recipe.model
    # Not at the end: the base is read in the first minute, and a change hours later is harmless.
    require_unchanged(model.base, pins.model, "model.base")
    with building(step, keep_partial=True) as build:
        job = TrainJob(
            rows=chats.train,
            held_out=chats.held_out,
            tokenizer=chats.tokenizer,
            model=model,
            revision=pins.commit(pins.model),
            config=recipe.training,
            folder=build.path,
        )
        monitor = Monitor(run, job.log)
        with watch_machine(run):
            try:
                result = run_training(job, monitor)
            except ChildRefused:
                if monitor.divergence:
                    raise Rejected(training.diverged(monitor.divergence)) from None
                raise
        remove(job.checkpoints)
        return build.finish(
            Adapter,
            metrics=result["metrics"],
            files=("train.log", job.log.name, "first_pack.txt", "fit.json"),
            history=job.log.name,
            models=("adapter",),
        )


def run_training(
    job: TrainJob, monitor: Callable[[Event], None], environment: Mapping[str, str] = NOTHING
) -> Event:
    """Run the backend's child on `job`, with `monitor` following; return its result event.

    `environment` is added to what the child sees. What a launcher says of other processes it sees only
    if several are to train together.

    A child whose GPU ran out of memory names a smaller fit; training goes on with that.
    """
    together = of_launcher() if job.config.processes > 1 else {}
    variables = {**variables_of_unsloth(), **together, **environment}
    child = child_of(job.config.backend)
    log = job.folder / "train.log"
    while True:
        hub = job.revision is not None
        # Unsloth patches the libraries as they are imported, so it imports them itself.
        forked = job.config.backend != "unsloth"
        result = run_child(
            child, job, log, monitor, variables, grace=FINISHING, hub=hub, forked=forked
        )
        if "retry" not in result:
            return result
        job = job.model_copy(update={"fit": Fit.model_validate(result["retry"])})


def child_of(backend: str) -> Path:
    return Path(__file__).with_name(f"{backend}_child.py")


def variables_of_unsloth() -> dict[str, str]:
    """Return what the environment tells Unsloth, which writes the code it generates to the current
    folder otherwise; what one version generated must not serve the next."""
    compiled = cache_dir() / f"unsloth-{version('unsloth')}-torch-{version('torch')}"
    compiled.mkdir(parents=True, exist_ok=True)
    return {"UNSLOTH_COMPILE_LOCATION": str(compiled)}


@contextmanager
def prepared(recipe: Recipe, pins: Pins) -> Iterator[None]:
    """Have Unsloth imported in the child that will train, for the length of a block, while others
    prepare the data: half a minute each time, a minute on a new machine, for which a GPU would wait.

    Where there is no GPU, or little room, nothing is done.
    """
    config, child = recipe.training, child_of(recipe.training.backend)
    room = cores() >= FEWEST_CORES and free_memory() >= LEAST_MEMORY
    if config.backend == "unsloth" and gpus() and room:
        prepare_child(child, variables_of_unsloth(), hub=pins.commit(pins.model) is not None)
    try:
        yield
    finally:
        dismiss_child(child)


class Monitor:
    """Follows a training by its events: MLflow metrics, a progress artifact, some log lines."""

    def __init__(self, run: Run, log: Path) -> None:
        self._run, self._log = run, log
        self._total = 1
        self._tracked_step = 0  # the last one that the MLflow run has
        self._first: tuple[int, float] | None = None  # step and time of this process's first row
        self._printed_step = 0  # the last one in the run's log
        self._artifact: Any = None
        self._last_update = 0.0
        self.divergence = ""  # why the training was stopped, if it diverged

    def __call__(self, event: Event) -> None:
        """Take one event of the child."""
        getattr(self, f"_on_{event.pop('event')}")(**event)

    def _on_state(self, text: str) -> None:
        get_run_logger().info("%s; its output goes to %s", text, self._log.with_name("train.log"))

    def _on_diverged(self, reason: str) -> None:
        self.divergence = reason

    def _on_begin(self, step: int, total: int, dropped: int) -> None:
        self._total = total
        if dropped:
            get_run_logger().warning("%d rows have nothing to learn from and are left out", dropped)
        if self._artifact is None:
            self._artifact = create_progress_artifact(
                0.0, key="training", description=f"Training, {total} steps"
            )
        # After a retry or a lost process the MLflow run has steps already.
        history = client().get_metric_history(self._run.id, "train/loss")
        self._tracked_step = max((metric.step for metric in history), default=0)
        if step:
            get_run_logger().info("going on from the checkpoint of step %d", step)
            for line in self._log.read_text().splitlines():
                self._track(json.loads(line))

    def _on_log(self, **row: Any) -> None:
        step = row["step"]
        self._track(dict(row))
        self._first = self._first or (step, time.monotonic())
        self._show_progress(row)
        if step == self._total or step >= self._printed_step + math.ceil(self._total / LOG_LINES):
            self._printed_step = step
            get_run_logger().info(
                "step %d of %d: loss %.4f, %s tokens/s, %s left",
                *(step, self._total, row["train/loss"]),
                *(f"{row['train/tokens_per_second']:,.0f}", self._time_left(step)),
            )

    def _track(self, row: dict[str, Any]) -> None:
        step = row.pop("step")
        if step > self._tracked_step:
            self._run.log_metrics(row, step)
            self._tracked_step = step

    def _show_progress(self, row: dict[str, Any]) -> None:
        now, step = time.monotonic(), row["step"]
        if step == self._total or now - self._last_update >= PROGRESS_SECONDS:
            self._last_update = now
            update_progress_artifact(
                self._artifact,
                progress=100 * step / self._total,
                description=f"Step {step} of {self._total}: loss {row['train/loss']:.4f}, "
                f"{row['train/tokens_per_second']:,.0f} tokens/s, {self._time_left(step)} left",
            )

    def _time_left(self, step: int) -> str:
        first, start = self._first or (step, 0.0)
        if step == first:
            return "unknown time"
        seconds = (time.monotonic() - start) / (step - first) * (self._total - step)
        return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
