"""The child process of evaluate: held-out loss and answers of the base and the tuned model.

With an adapter both are one model in memory, the base is the adapter switched off; after full
fine-tuning they are loaded one after the other.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from retune.chat import encode
from retune.child import emit, main
from retune.loaders import admit, head_size, largest, load_tokenizer
from retune.models import (
    TOKENS_PER_BATCH,
    batches,
    device,
    is_adapter,
    load_base,
    load_tuned,
    padded,
    release_memory,
)
from retune.original import Original
from retune.recipe import Evaluation, Model
from retune.row_losses import HeldOut
from retune.templates import render
from tasks.evaluate.scores import SIDES

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedTokenizerBase

MLP_TENSORS = 6  # of the width of an MLP, that exist at once when a prompt is read
MEMORY_SHARE = 0.6  # of the free memory of a GPU, for answers


class EvaluateJob(BaseModel):
    """`adapter` is the folder that train wrote, on `model` at `revision`, and put on its `original` if
    there is one; `held_out` is what the loss is taken of; `prompts` are lists of messages to answer."""

    held_out: HeldOut
    tokenizer: Path
    adapter: Path
    model: Model
    revision: str | None
    original: Original | None
    config: Evaluation
    prompts: list[list[dict[str, str]]]


class GeneratedAnswer(BaseModel):
    """What a model said in its turn, in how many `tokens`; `stopped` if it ended the turn by itself;
    `seconds` of its batch."""

    text: str
    stopped: bool
    tokens: int
    seconds: float


def evaluate(job: EvaluateJob) -> dict[str, Any]:
    """Return for base and tuned: `losses` (a RowLoss for each row) and `answers` (one per prompt)."""
    admit(job.model, job.revision)
    tokenizer = load_tokenizer(job.tokenizer)
    losses, answers = {}, {}
    for side, model in sides(job):
        emit("state", text=f"measuring and asking the {side} model")
        losses[side] = job.held_out.losses(model)
        answers[side] = [reply.model_dump() for reply in answer(model, tokenizer, job)]
        del model  # before the next one is loaded
        release_memory()
    return {"losses": losses, "answers": answers}


def sides(job: EvaluateJob) -> Iterator[tuple[str, Any]]:
    """Yield the base and the tuned model by name, no two in memory if the caller lets go of each."""
    base, tuned = SIDES
    if is_adapter(job.adapter):
        model = load_tuned(job.model, job.revision, job.adapter, job.original)
        with model.disable_adapter():
            yield base, model
        yield tuned, model
    else:
        yield base, load_base(job.model, job.revision, job.tokenizer)
        yield tuned, load_tuned(job.model, job.revision, job.adapter)


def answer(
    model: Any, tokenizer: "PreTrainedTokenizerBase", job: EvaluateJob
) -> list[GeneratedAnswer]:
    """Return the greedy answer to each prompt, up to its end-of-turn token."""
    import torch

    ids = encode(tokenizer, render(tokenizer, job.prompts, add_generation_prompt=True))
    settings = _greedy(model, tokenizer, job.config.max_new_tokens)
    limit = job.config.batch_size
    lengths = [len(prompt) + job.config.max_new_tokens for prompt in ids]
    # On a GPU a step waits for the CPU, so that it takes as long for one row as for all that fit.
    room = room_for_tokens(model) if device() == "cuda" else TOKENS_PER_BATCH
    remaining, answers = list(range(len(ids))), {}
    while remaining:
        chosen = next(batches([lengths[n] for n in remaining], limit or len(ids), room))
        numbers = [remaining[place] for place in chosen]
        batch = padded([ids[n] for n in numbers], tokenizer.pad_token_id, left=True)
        began = time.monotonic()
        try:
            with torch.inference_mode():
                output = model.generate(**batch, generation_config=settings)
        except torch.OutOfMemoryError:
            if len(numbers) == 1:
                raise
            room = len(numbers) * max(lengths[n] for n in numbers) // 2
            continue
        new = output[:, batch["input_ids"].shape[1] :].tolist()
        seconds = time.monotonic() - began
        for number, tokens in zip(numbers, new, strict=True):
            turn = _first_turn(tokens, settings.eos_token_id)
            stopped = len(turn) < len(tokens)
            answers[number] = GeneratedAnswer(
                text=tokenizer.decode(turn), stopped=stopped, tokens=len(turn), seconds=seconds
            )
        remaining = [number for number in remaining if number not in answers]
    return [answers[number] for number in range(len(ids))]


def room_for_tokens(model: Any) -> int:
    """Return how many tokens, padding included, can be answered together in the GPU's free memory.

    A token takes its keys and values, twice while the cache grows by one, and when the prompt is read
    what one layer computes. Measured with the shape of Llama 3.1 8B: 0.32 MB, estimated 0.43 MB.
    """
    import torch

    config = model.config.get_text_config()
    width = largest(config, "intermediate_size") or 4 * config.hidden_size
    heads = largest(config, "num_key_value_heads") or config.num_attention_heads
    cache = 2 * 2 * config.num_hidden_layers * heads * head_size(config)
    per_token = model.dtype.itemsize * (cache + MLP_TENSORS * width)
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    return max(TOKENS_PER_BATCH, int(MEMORY_SHARE * free / per_token))


def _greedy(model: Any, tokenizer: "PreTrainedTokenizerBase", limit: int) -> "GenerationConfig":
    from transformers import GenerationConfig

    # The base's own end tokens too: it has not learned to end a turn.
    base_ends = model.generation_config.eos_token_id
    ends = {
        tokenizer.eos_token_id,
        *(base_ends if isinstance(base_ends, list) else [base_ends]),
    } - {None}
    return GenerationConfig(
        do_sample=False,
        max_new_tokens=limit,
        eos_token_id=sorted(ends),
        pad_token_id=tokenizer.pad_token_id,
    )


def _first_turn(tokens: list[int], ends: list[int]) -> list[int]:
    """Cut at the first end token; what follows it is padding."""
    stop = next((place for place, token in enumerate(tokens) if token in ends), len(tokens))
    return tokens[:stop]


if __name__ == "__main__":
    main(EvaluateJob, evaluate)
