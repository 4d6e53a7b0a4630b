"""train: a LoRA adapter by supervised fine-tuning, in a child process that can be resumed."""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any

from prefect import get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact

from expectations import training
from expectations.verdicts import Rejected
from retune.building import building
from retune.child import ChildRefused, Event, dismiss_child, prepare_child, run_child
from retune.delivery import Delivery
from retune.home import cache_dir, remove
from retune.machine import cores, free_memory, gpus
from retune.outputs import Step
from retune.recipe import Recipe
from retune.records import Adapter, Chats, Pins
from retune.sources import require_unchanged
from retune.store.checkpoints import kept
from retune.tracking import Run, watch_machine
from tasks.stage import show, stage, was_killed
from tasks.train.checkpoints import SEAL, newest_sealed, step_of
from tasks.train.hosts import of_run
from tasks.train.job import Fit, TrainJob
from tasks.train.news import news
from tasks.train.rendezvous import HostLost

FINISHING = 120  # seconds that a child which is told to end has for its last step and checkpoint
NOTHING: Mapping[str, str] = MappingProxyType({})
# With less, what prepares the data would wait for Unsloth's import, or be short of memory.
FEWEST_CORES, LEAST_MEMORY = 4, 16 * 2**30
LOG = "train.log"  # what the child prints
LOG_LINES = 8  # in a run, besides the first and the last
HURRIED, PATIENCE = 5, 600  # seconds for MLflow to get the end of the curve; it has retries itself
PROGRESS_SECONDS = 2  # between two updates of the progress artifact, at least


def may_go_on(task: Any, run: Any, state: Any) -> bool:
    """Tell whether a training is worth a second attempt: it was killed, or another host was."""
    lost = isinstance(state.result(raise_on_failure=False), HostLost)
    return lost or was_killed(task, run, state)


@stage(name="train", retry_condition_fn=may_go_on)
def train(chats: Chats, run: Run, recipe: Recipe, pins: Pins, step: Step) -> Adapter:
    """Train the adapter; a run that was killed goes on from its last checkpoint.

    `run` follows it live. Raises Rejected for a training that diverged, HostLost if another host of
    it is gone.
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
        with (
            kept(step.name, job.checkpoints, SEAL, (job.log.name, "usage.json")),
            watch_machine(run),
            monitor.following(),
            noting_the_checkpoint(job.checkpoints),
        ):
            try:
                result = run_training(job, monitor, of_run(recipe.training))
            except ChildRefused as refusal:
                if monitor.divergence:
                    raise Rejected(training.diverged(monitor.divergence)) from None
                if monitor.lost:
                    raise HostLost(str(refusal)) from None
                raise
        remove(job.checkpoints)
        # Of hosts that share this disk; they may be written to for some seconds more.
        for pattern in ("train-*.log", "result-*.json"):
            for path in build.path.glob(pattern):
                remove(path)
        return build.finish(
            Adapter,
            metrics=result["metrics"],
            files=(LOG, job.log.name, "first_pack.txt", "fit.json"),
            history=job.log.name,
            models=("adapter",),
        )


def run_training(
    job: TrainJob,
    monitor: Callable[[Event], None],
    environment: Mapping[str, str] = NOTHING,
    log_name: str = LOG,
) -> Event:
    """Run the backend's child on `job`, with `monitor` following; return its result event.

    `environment` is added to what the child sees.

    A child whose GPU ran out of memory names a smaller fit; training goes on with that.
    """
    variables = {**variables_of_unsloth(), **environment}
    child = child_of(job.config.backend)
    log = job.folder / log_name
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


@contextmanager
def noting_the_checkpoint(folder: Path) -> Iterator[None]:
    """Note in what interrupts a training (Ctrl-C, a cancellation) which checkpoint it leaves.

    The child was told to end by then, and has written one.
    """
    try:
        yield
    except Exception:
        raise
    except BaseException as interruption:
        if newest := newest_sealed(folder):
            interruption.add_note(f"the checkpoint of step {step_of(newest):,} is kept")
        raise


class Monitor:
    """Follows a training by its events: MLflow metrics, a progress artifact, some log lines.

    No event waits for a server: the training would wait, too, and could not be told to end.
    """

    def __init__(self, run: Run, log: Path) -> None:
        self._run, self._log = run, log
        self._total = 1
        self._tracked_step: int | None = None  # the last one that the MLflow run has, once known
        self._first: tuple[int, float] | None = None  # step and time of this process's first row
        self._printed_step = 0  # the last one in the run's log
        self._artifact: Any = None
        self._last_step, self._last_update = 0, 0.0
        self.divergence = ""  # why the training was stopped, if it diverged
        self.lost = ""  # how another host of the training was lost, if one was

    @contextmanager
    def following(self) -> Iterator[None]:
        """Hand on for the length of a block what the events say.

        What MLflow has not got by its end it gets with the output, or from the next attempt.
        """
        self._curve = Delivery(self._track, self._tell_of_outage)
        self._page = Delivery(self._show)
        try:
            yield
        except BaseException:
            if self._last_step:
                share = 100 * self._last_step / self._total
                stopped = f"Stopped at step {self._last_step:,} of {self._total:,}"
                self._page.put((share, f"{stopped}: the run's state says what is kept"))
            self._curve.finish(HURRIED)
            raise
        else:
            self._curve.finish(PATIENCE)
        finally:
            self._page.finish(HURRIED)

    def __call__(self, event: Event) -> None:
        """Take one event of the child."""
        getattr(self, f"_on_{event.pop('event')}")(**event)

    def _on_state(self, text: str) -> None:
        get_run_logger().info("%s; its output goes to %s", text, self._log.with_name(LOG))

    def _on_diverged(self, reason: str) -> None:
        self.divergence = reason

    def _on_lost(self, reason: str) -> None:
        self.lost = reason

    def _on_begin(self, step: int, total: int, dropped: int) -> None:
        self._total = total
        if dropped:
            get_run_logger().warning("%d rows have nothing to learn from and are left out", dropped)
        self._page.put((0.0, f"Training, {total} steps"))
        if step:
            get_run_logger().info("going on from the checkpoint of step %d", step)
            for line in self._log.read_text().splitlines():
                self._curve.put(json.loads(line))

    def _on_log(self, **row: Any) -> None:
        step = row["step"]
        self._curve.put(row)
        self._first, self._last_step = self._first or (step, time.monotonic()), step
        now = time.monotonic()
        if step == self._total or now - self._last_update >= PROGRESS_SECONDS:
            self._last_update = now
            self._page.put((100 * step / self._total, self._news(row)))
        due = step >= self._printed_step + math.ceil(self._total / LOG_LINES)
        if due or step == self._total or not self._printed_step:  # the first at once
            self._printed_step = step
            get_run_logger().info("%s", self._news(row))

    def _news(self, row: dict[str, Any]) -> str:
        loss, speed = row["train/loss"], row["train/tokens_per_second"]
        left = self._seconds_left(row["step"])
        return news(row["step"], self._total, loss, speed, left, datetime.now(UTC))

    def _track(self, rows: list[dict[str, Any]]) -> None:
        if self._tracked_step is None:
            # After a retry or a lost process the MLflow run has steps already.
            self._tracked_step = self._run.last_step("train/loss")
        rows = [row for row in rows if row["step"] > self._tracked_step]
        if rows:
            # Of a request that failed nobody knows whether it arrived: the run is asked again then.
            self._tracked_step, last = None, rows[-1]["step"]
            self._run.log_rows(rows)
            self._tracked_step = last

    def _tell_of_outage(self, error: Exception) -> None:
        get_run_logger().warning("the training goes on, and its curve is logged later: %s", error)

    def _show(self, pages: list[tuple[float, str]]) -> None:
        progress, description = pages[-1]
        if self._artifact is None:
            self._artifact = show(
                create_progress_artifact, progress, key="training", description=description
            )
        else:
            show(update_progress_artifact, self._artifact, progress, description=description)

    def _seconds_left(self, step: int) -> float | None:
        first, start = self._first or (step, 0.0)
        if step == first:
            return None
        return (time.monotonic() - start) / (step - first) * (self._total - step)
