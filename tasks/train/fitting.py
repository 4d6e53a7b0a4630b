"""Fit the recipe's effective batch to this machine's memory, by measuring it."""

import gc
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from retune.child import emit
from retune.models import compute_dtype, device
from retune.recipe import Training
from tasks.train.backend import Backend
from tasks.train.distributed import gathered, is_first, world_size
from tasks.train.hosts import divisors, share_of
from tasks.train.job import Fit, TrainingRefused, TrainJob
from tasks.train.objective import Objective

HEADROOM = 0.92  # of the memory; the allocator cannot use the rest, which is fragmented
# torch has an error of its own for its allocator only; cuBLAS, NCCL and Triton, which allocate for
# themselves, raise a RuntimeError, as does Unsloth's loss when nothing is left for it.
MEMORY_RAN_OUT = re.compile(r"out of memory|STATUS_ALLOC_FAILED|negligible GPU memory")
MIN_TOKENS = 2048  # per pass; below it the GPU is not busy, and recomputing costs less
MAX_TOKENS = 1 << 14  # per pass; beyond it no batch is faster
RECOMPUTE = {"unsloth": "unsloth", "trl": "on"}  # gradient checkpointing, by backend

Attempt = Callable[[int, str], None]


class Measurement(NamedTuple):
    """A pass over `batch_size` examples: bytes at its peak, and seconds."""

    batch_size: int
    checkpointing: str
    peak: int
    seconds: float

    @property
    def seconds_per_example(self) -> float:
        return self.seconds / self.batch_size


def choose_fit(job: TrainJob, backend: Backend, objective: Objective, model: Any) -> Fit:
    """Return how the effective batch runs here: the job's fit, as written, or as measured."""
    fit = job.fit
    # A sharded model's memory can be measured only once it is sharded: it starts as written, and
    # steps down when memory runs out.
    if fit is None and (job.config.memory == "as_written" or job.config.shard):
        fit = as_written(job.config, world_size())
    if fit is None:
        model.train()
        attempt = make_attempt(backend, objective, model)
        reserve = _training_bytes(model, job.config)
        length, dense = job.model.max_length, backend.dequantized_bytes(model)
        fit = most_frugal(
            gathered(measured_fit(job.config, world_size(), length, reserve, attempt, dense))
        )
    if fit.dequantized:
        backend.keep_dequantized(model)
    if is_first():
        (job.folder / "fit.json").write_text(fit.model_dump_json(indent=1))
        precision = str(compute_dtype()).removeprefix("torch.")
        emit("state", text=f"{describe(fit)}, computing in {precision} ({fit.reason})")
    return fit


def describe(fit: Fit) -> str:
    return (
        f"batch {fit.batch_size} × {fit.gradient_accumulation}, gradient checkpointing "
        f"{fit.gradient_checkpointing}{', the base dequantized once' if fit.dequantized else ''}"
    )


def as_written(config: Training, processes: int, reason: str = "as the recipe says") -> Fit:
    """Return the recipe's own batch size, or the next smaller one that divides a process's share."""
    share = share_of(config, processes)
    batch_size = next(size for size in divisors(share) if size <= config.batch_size)
    return Fit(
        batch_size=batch_size,
        gradient_accumulation=share // batch_size,
        gradient_checkpointing=config.gradient_checkpointing,
        reason=reason,
    )


def smaller(fit: Fit, config: Training) -> Fit | None:
    """Return the next smaller fit of the same effective batch after memory ran out, or None."""
    if fit.dequantized:
        update = {"dequantized": False, "reason": "memory ran out with the base in 16 bits"}
        return fit.model_copy(update=update)
    if fit.gradient_checkpointing == "off":
        return fit.model_copy(
            update={
                "gradient_checkpointing": RECOMPUTE[config.backend],
                "reason": "memory ran out without it",
            }
        )
    effective = fit.batch_size * fit.gradient_accumulation
    sizes = [size for size in divisors(effective) if size < fit.batch_size]
    if not sizes:
        return None
    return fit.model_copy(
        update={
            "batch_size": sizes[0],
            "gradient_accumulation": effective // sizes[0],
            "reason": f"memory ran out with batches of {fit.batch_size}",
        }
    )


def memory_ran_out(error: RuntimeError) -> bool:
    """Tell whether `error` says that the GPU's memory was not enough."""
    return MEMORY_RAN_OUT.search(str(error)) is not None


def most_frugal(fits: list[Fit]) -> Fit:
    """Return the fit that takes the least memory: all processes must use the same one."""
    return min(
        fits,
        key=lambda fit: (fit.gradient_checkpointing == "off", fit.batch_size, fit.dequantized),
    )


def measured_fit(
    config: Training,
    processes: int,
    max_length: int,
    reserve: int,
    attempt: Attempt,
    dense: int = 0,
) -> Fit:
    """Return the fastest way to run the effective batch in the memory that is free.

    `attempt(batch_size, checkpointing)` runs one forward and backward pass of that many examples
    of `max_length` tokens; `reserve` is the bytes that the optimizer will take, and `dense` those of
    the base dequantized, which is kept if they are free then. Measured are one
    and two examples with and without checkpointing; memory grows linearly with the batch size,
    which gives the largest batch of each kind; these are then run, and the fastest per example is
    taken. Raises TrainingRefused if not one example fits.
    """
    if device() == "cpu":
        return as_written(
            config, processes, "as the recipe says: there is no GPU memory to measure"
        )
    import torch

    effective = share_of(config, processes)
    # What other programs hold on the card is not available.
    total = torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved()
    limit = int(total * HEADROOM) - reserve
    candidates: list[Measurement] = []
    for mode in ("off", RECOMPUTE[config.backend]):
        largest = _largest_batch(attempt, mode, effective, limit)
        for size in _batch_sizes(effective, largest, max_length):
            measurement = _measure(attempt, size, mode)
            if measurement and measurement.peak <= limit:
                candidates.append(measurement)
                break
        if mode == "off" and candidates and candidates[0].batch_size * max_length >= MIN_TOKENS:
            break  # not recomputing is a third less work: nothing else can be faster
    if not candidates:
        raise TrainingRefused(
            f"one sequence of {max_length} tokens does not fit in the GPU's free memory "
            f"({total / 2**30:.0f} GiB); shorten model.max_length or take a smaller base model"
        )
    fastest = min(
        candidates, key=lambda candidate: (candidate.seconds_per_example, candidate.batch_size)
    )
    return Fit(
        batch_size=fastest.batch_size,
        gradient_accumulation=effective // fastest.batch_size,
        gradient_checkpointing=fastest.checkpointing,
        dequantized=0 < dense <= limit - fastest.peak,
        reason=f"measured: {max_length / fastest.seconds_per_example:,.0f} tokens/s a pass within "
        f"{limit / 2**30:.0f} of {total / 2**30:.0f} GiB",
    )


def _largest_batch(attempt: Attempt, mode: str, effective: int, limit: int) -> int:
    """Return the largest batch that should fit in `limit` bytes, from passes of one and two."""
    first, second = (_measure(attempt, size, mode) for size in (1, min(2, effective)))
    if first is None or first.peak > limit:
        return 0
    growth = second.peak - first.peak if second else limit
    return 1 + int((limit - first.peak) / max(1, growth))


def _batch_sizes(effective: int, largest: int, max_length: int) -> Iterator[int]:
    """Yield the batch sizes that are worth a measurement, the largest that should fit first."""
    for size in divisors(effective):
        if size <= largest and (size * max_length <= MAX_TOKENS or size == 1):
            yield size


def _measure(attempt: Attempt, batch_size: int, mode: str) -> Measurement | None:
    """Measure the second of two passes; None if memory ran out."""
    import torch

    try:
        for _ in range(2):  # the first one also compiles
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            start = time.perf_counter()
            attempt(batch_size, mode)
            torch.cuda.synchronize()
        peak = torch.cuda.max_memory_reserved()
        return Measurement(batch_size, mode, peak, time.perf_counter() - start)
    except RuntimeError as error:
        if not memory_ran_out(error):
            raise
        return None
    finally:
        gc.collect()
        torch.cuda.empty_cache()


def make_attempt(backend: Backend, objective: Objective, model: Any) -> Attempt:
    """Return an `attempt` for `measured_fit`, with batches of the objective's largest example."""
    import torch

    collate = objective.collator()
    example = objective.largest_example(len(model.get_input_embeddings().weight))

    def attempt(batch_size: int, mode: str) -> None:
        backend.recompute(model, mode)
        batch = collate([example] * batch_size)
        batch = {
            name: value.cuda() if torch.is_tensor(value) else value for name, value in batch.items()
        }
        try:
            with torch.autocast("cuda", compute_dtype()):
                objective.loss(model, batch).backward()
        finally:
            model.zero_grad(set_to_none=True)

    return attempt


def _training_bytes(model: Any, config: Training) -> int:
    """Return the bytes of gradients and moments; several processes also sum gradients in buckets."""
    copies = 1 if world_size() == 1 else 2
    sizes = [
        (parameter.numel(), parameter.element_size())
        for parameter in model.parameters()
        if parameter.requires_grad
    ]
    return sum(count * (copies * width + config.moments_bytes(width)) for count, width in sizes)
