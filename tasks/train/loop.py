"""The training itself, the same for every backend and objective: load, fit, train, save."""

import gc
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from retune.child import Event, emit
from retune.home import remove
from retune.loaders import admit, load_tokenizer
from tasks.train import checkpoints, fitting, training_log
from tasks.train.backend import Backend
from tasks.train.data import TrainingPlan
from tasks.train.distributed import connect, is_first, world_size
from tasks.train.health import interrupted
from tasks.train.hosts import share_of
from tasks.train.job import Fit, TrainingDiverged, TrainingRefused, TrainJob
from tasks.train.objective import Objective, make_objective
from tasks.train.parts import Disks
from tasks.train.requirements import require_embeddings, require_gpu, require_same
from tasks.train.saving import require_trained, save
from tasks.train.trainer import make_trainer

if TYPE_CHECKING:
    from transformers import Trainer

LOCK = ".training.lock"  # in a job's folder
_held: list[FileLock] = []  # which are let go with the last reference


def run(job: TrainJob, backend: Backend) -> Event:
    """Train, from the last whole checkpoint if there is one.

    Returns `metrics` (empty, but in the first process), or `retry` with a smaller fit after the GPU's
    memory ran out. Raises TrainingDiverged, TrainingInterrupted or TrainingRefused, with a message for
    people.
    """
    hold(job.folder)
    share_of(job.config, world_size())
    require_gpu(job)
    admit(job.model, job.revision)
    objective = make_objective(job, backend, load_tokenizer(job.tokenizer))
    plan = objective.plan()
    model = backend.load(job)
    connect()
    require_same(job, model)
    require_embeddings(plan, model)
    fit = fitting.choose_fit(job, backend, objective, model)
    backend.recompute(model, fit.gradient_checkpointing)
    trainer = make_trainer(job, backend, objective, model, plan, fit)
    return train(job, objective, trainer, plan, fit)


def train(
    job: TrainJob, objective: Objective, trainer: "Trainer", plan: TrainingPlan, fit: Fit
) -> Event:
    """Run the trainer to its end and write `adapter/`: an adapter, or all weights in bf16."""
    from tasks.train.watcher import Watcher

    disks = Disks(job)
    checkpoint = _begin(job, plan, disks)
    watcher = Watcher(job, objective, trainer, plan, disks)
    trainer.add_callback(watcher)
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if not watcher.stop_reason:
            require_trained(trainer.model)
    except TrainingDiverged as error:
        if is_first():
            emit("diverged", reason=str(error))
        if disks.is_keeper:
            remove(job.checkpoints)  # resumed from them, the training would diverge again
        raise
    except RuntimeError as error:
        if not fitting.memory_ran_out(error):
            raise
        return {"retry": _after_memory_ran_out(job, trainer, watcher, fit, error).model_dump()}
    finally:
        if is_first():
            watcher.usage.record()
    if watcher.stop_reason:
        raise interrupted(trainer.state.global_step, watcher.stop_reason)
    save(job, trainer)
    if not is_first():
        return {"metrics": {}}
    return {"metrics": training_log.summary(job, trainer, watcher.usage, watcher.ceiling)}


def hold(folder: Path) -> None:
    """Keep the folder to this process until it ends; one of an earlier attempt, which was left alone,
    may still write its checkpoint there."""
    if is_first():
        lock = FileLock(folder / LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            emit("state", text="waiting for the checkpoint of an attempt that lost its parent")
            lock.acquire()
        _held.append(lock)


def _begin(job: TrainJob, plan: TrainingPlan, disks: Disks) -> Path | None:
    """Prepare the job's folder and return the checkpoint to resume from, None at the start."""
    checkpoint = disks.newest_checkpoint()
    if is_first():
        step = checkpoints.step_of(checkpoint) if checkpoint else 0
        training_log.cut_log(job.log, step)
        (job.folder / "first_pack.txt").write_text(plan.preview)
        print(
            f"The first pack; ⟦what is not trained on⟧ is in brackets:\n{plan.preview}", flush=True
        )
        emit("begin", step=step, total=plan.steps, dropped=plan.dropped)
    return checkpoint


def _after_memory_ran_out(
    job: TrainJob, trainer: "Trainer", watcher: Any, fit: Fit, error: Exception
) -> Fit:
    """Save the steps that were trained and return a smaller fit; raises TrainingRefused without one."""
    smaller_fit = fitting.smaller(fit, job.config) if job.config.memory == "auto" else None
    if smaller_fit is None:
        raise TrainingRefused(
            f"the GPU's memory is too small for {fitting.describe(fit)}: set training.memory=auto, "
            f"halve training.batch_size and double training.gradient_accumulation, or shorten "
            f"model.max_length"
        ) from error
    if world_size() == 1 and trainer.state.global_step:  # the weights are those of the last step
        error.__traceback__ = None  # it holds the activations
        model: Any = trainer.model
        model.zero_grad(set_to_none=True)
        gc.collect()
        try:
            watcher.save()
        except RuntimeError as second_error:
            if not fitting.memory_ran_out(second_error):
                raise  # else the next process resumes from the last checkpoint
    return smaller_fit
