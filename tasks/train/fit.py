"""Fit the recipe's effective batch to this machine's memory, by measuring it."""

import gc
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

from retune.models import compute_dtype, device
from retune.recipe import Training
from tasks.train.job import Fit

HEADROOM = 0.92  # of the memory; what the allocator cannot use for its fragments
# torch has an error of its own for its allocator only; cuBLAS, NCCL and Triton, which allocate for
# themselves, raise a RuntimeError, as does Unsloth's loss when nothing is left for it.
MEMORY_RAN_OUT = re.compile(r"out of memory|STATUS_ALLOC_FAILED|negligible GPU memory")
LEAST_TOKENS = 2048  # per pass; below it the GPU starves, and recomputing costs less


def as_written(config: Training, processes: int, reason: str = "as the recipe says") -> Fit:
    """Return the recipe's own batch size, or the next smaller one that the processes can share."""
    share = config.batch_size * config.gradient_accumulation // processes
    batch = next(size for size in divisors(share) if size <= config.batch_size)
    return Fit(
        batch_size=batch,
        gradient_accumulation=share // batch,
        gradient_checkpointing=config.gradient_checkpointing,
        reason=reason,
    )


def smaller(fit: Fit, config: Training) -> Fit | None:
    """Return the next smaller fit of the same effective batch after memory ran out, or None."""
    recompute = {"unsloth": "unsloth", "trl": "on"}[config.backend]
    if fit.gradient_checkpointing == "off":
        return fit.model_copy(
            update={"gradient_checkpointing": recompute, "reason": "memory ran out without it"}
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
    """Return whether `error` says that the GPU's memory was not enough."""
    return MEMORY_RAN_OUT.search(str(error)) is not None


def most_frugal(fits: list[Fit]) -> Fit:
    """Return the fit that takes the least memory: processes that train together must cut alike."""
    return min(fits, key=lambda how: (how.gradient_checkpointing == "off", how.batch_size))


def divisors(number: int) -> list[int]:
    """Return the divisors of `number`, the largest first."""
    return [part for part in range(number, 0, -1) if number % part == 0]


def fitted(
    config: Training,
    processes: int,
    max_length: int,
    reserve: int,
    attempt: Callable[[int, str], None],
) -> Fit:
    """Return the fastest way to run the effective batch in the memory that is free.

    `attempt(packs, checkpointing)` runs one forward and backward pass of that many full packs;
    `reserve` is the bytes that the optimizer will still want. Measured are one and two packs with
    and without checkpointing; memory grows in a straight line with packs, which gives the largest
    batch of each kind; these are then run, and the fastest per pack is taken. Raises ValueError if
    not one pack fits.
    """
    if device() == "cpu":
        return as_written(
            config, processes, "as the recipe says: there is no GPU memory to measure"
        )
    import torch

    effective = config.batch_size * config.gradient_accumulation // processes
    # What others hold on the card is not ours to plan with.
    total = torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved()
    limit = int(total * HEADROOM) - reserve
    recompute = {"unsloth": "unsloth", "trl": "on"}[config.backend]
    tried: list[tuple[float, int, str]] = []
    for mode in ("off", recompute):
        small = [_measured(attempt, packs, mode) for packs in (1, min(2, effective))]
        if small[0] is None:
            continue
        growth = (small[1][0] - small[0][0]) if small[1] else limit
        most = 1 + int((limit - small[0][0]) / max(1, growth)) if small[0][0] <= limit else 0
        for packs in _worth_trying(effective, most, max_length):
            measured = _measured(attempt, packs, mode)
            if measured and measured[0] <= limit:
                tried.append((measured[1] / packs, packs, mode))
                break
        if mode == "off" and tried and tried[0][1] * max_length >= LEAST_TOKENS:
            break  # not recomputing is a third less work: nothing else can win
    if not tried:
        raise ValueError(
            f"one sequence of {max_length} tokens does not fit in the GPU's free memory "
            f"({total / 2**30:.0f} GiB); shorten model.max_length or take a smaller base model"
        )
    seconds, packs, mode = min(tried)
    return Fit(
        batch_size=packs,
        gradient_accumulation=effective // packs,
        gradient_checkpointing=mode,
        reason=f"measured: {max_length / seconds:,.0f} tokens/s a pass within "
        f"{limit / 2**30:.0f} of {total / 2**30:.0f} GiB",
    )


def _worth_trying(effective: int, most: int, max_length: int) -> Iterator[int]:
    """Yield batch sizes from the largest that should fit; beyond 16k tokens none is faster."""
    for packs in divisors(effective):
        if packs <= most and (packs * max_length <= 1 << 14 or packs == 1):
            yield packs


def _measured(
    attempt: Callable[[int, str], None], packs: int, mode: str
) -> tuple[int, float] | None:
    """Return peak bytes and seconds of the second of two passes; None if memory ran out."""
    import torch

    try:
        for _ in range(2):  # the first one also compiles
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            began = time.perf_counter()
            attempt(packs, mode)
            torch.cuda.synchronize()
        return torch.cuda.max_memory_reserved(), time.perf_counter() - began
    except RuntimeError as error:
        if not memory_ran_out(error):
            raise
        return None
    finally:
        gc.collect()
        torch.cuda.empty_cache()


def attempting(model: Any, collate: Any, max_length: int, backend: Any) -> Any:
    """Return an `attempt` for `fitted`: full packs of one conversation each, the worst case."""
    import torch

    vocabulary = len(model.get_input_embeddings().weight)
    ids = [number % vocabulary for number in range(max_length)]
    pack = {"input_ids": ids, "labels": ids, "seq_lengths": [max_length]}

    def attempt(packs: int, mode: str) -> None:
        backend.recompute(model, mode)
        batch = collate([pack] * packs)
        batch = {
            name: value.cuda() if torch.is_tensor(value) else value for name, value in batch.items()
        }
        try:
            with torch.autocast("cuda", compute_dtype()):
                backend.loss(model, batch).backward()
        finally:
            model.zero_grad(set_to_none=True)

    return attempt
