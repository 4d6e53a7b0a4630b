"""Answers of a model to prompts, batch by batch; what it has answered is kept as it goes."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from retune.chat import encode
from retune.child import emit
from retune.files import digest
from retune.journal import Journal
from retune.loaders import head_size, largest
from retune.models import TOKENS_PER_BATCH, batches, device, padded
from retune.templates import Refusal, TemplateRefused, rendering
from retune.templates import outcomes as rendered

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedTokenizerBase

MLP_TENSORS = 6  # of the width of an MLP, that exist at once when a prompt is read
MEMORY_SHARE = 0.6  # of the free memory of a GPU, for answers
SECONDS = 5.0  # between two words about the progress


class AskedPrompt(BaseModel):
    """Messages and tools as a chat template takes them, answered in up to `max_new_tokens`.

    An `optional` one is left out where the model cannot be asked: its template refuses the messages,
    or they are longer than its context.
    """

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] = []
    max_new_tokens: int
    optional: bool = False


class GeneratedAnswer(BaseModel):
    """What a model said in its turn, in how many `tokens`; `stopped` if it ended the turn by itself;
    `seconds` of its batch."""

    text: str
    stopped: bool
    tokens: int
    seconds: float


class AnswerLog:
    """The answers of one `side` so far, in a journal."""

    def __init__(self, path: Path, side: str) -> None:
        self._journal, self._side = Journal(path), side

    def key(self, prompt: AskedPrompt) -> str:
        asked = [prompt.messages, prompt.tools, prompt.max_new_tokens]
        return digest([self._side, *asked])

    def known(self, prompt: AskedPrompt) -> GeneratedAnswer | None:
        try:
            return GeneratedAnswer.model_validate(self._journal.known.get(self.key(prompt)))
        except ValueError:  # there is none
            return None

    def add(self, answers: Sequence[tuple[AskedPrompt, GeneratedAnswer]]) -> None:
        """Keep the answers of one batch."""
        self._journal.add(*((self.key(prompt), answer.model_dump()) for prompt, answer in answers))


class AnswerProgress:
    """How far the answers of one `side` are; the parent is told of the first batch, and then now and
    then."""

    def __init__(self, side: str, done: int, total: int) -> None:
        self._side, self._done, self._total = side, done, total
        self._tokens, self._began, self._told = 0, time.monotonic(), 0.0

    def add(self, answers: Sequence[GeneratedAnswer]) -> None:
        self._done += len(answers)
        self._tokens += sum(answer.tokens for answer in answers)
        now = time.monotonic()
        if now - self._told >= SECONDS or self._done == self._total:
            self._told = now
            speed = self._tokens / max(now - self._began, 1e-9)
            state = {"done": self._done, "total": self._total, "tokens_per_second": speed}
            emit("progress", side=self._side, **state)


def answer(
    model: Any,
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[AskedPrompt],
    batch_size: int | None,
    side: str,
    log: Path,
) -> list[GeneratedAnswer | None]:
    """Return the greedy answer to each prompt, up to its end-of-turn token; None where the model cannot
    be asked. At most `batch_size` are answered together, those in `log` not again."""
    ids = _encoded(tokenizer, prompts, _context(model))
    kept = AnswerLog(log, side)
    answers = {n: found for n, prompt in enumerate(prompts) if (found := kept.known(prompt))}
    waiting = [n for n, tokens in enumerate(ids) if tokens is not None and n not in answers]
    progress = AnswerProgress(side, len(answers), len(answers) + len(waiting))
    # On a GPU a step waits for the CPU, so that it takes as long for one row as for all that fit.
    room = room_for_tokens(model) if device() == "cuda" else TOKENS_PER_BATCH
    for limit in sorted({prompts[n].max_new_tokens for n in waiting}):
        settings = _greedy(model, tokenizer, limit)
        remaining = [n for n in waiting if prompts[n].max_new_tokens == limit]
        while remaining:
            lengths = [len(ids[n] or ()) + limit for n in remaining]
            numbers = [remaining[at] for at in next(batches(lengths, batch_size or len(ids), room))]
            turns = _generated(model, tokenizer, [ids[n] or [] for n in numbers], settings)
            if turns is None:
                room = len(numbers) * max(len(ids[n] or ()) + limit for n in numbers) // 2
                continue
            answers |= dict(zip(numbers, turns, strict=True))
            kept.add([(prompts[n], answers[n]) for n in numbers])
            progress.add(turns)
            remaining = [n for n in remaining if n not in answers]
    return [answers.get(n) for n in range(len(ids))]


def _generated(
    model: Any,
    tokenizer: "PreTrainedTokenizerBase",
    rows: list[list[int]],
    settings: "GenerationConfig",
) -> list[GeneratedAnswer] | None:
    """Return the answer to each row of tokens; None if memory does not suffice for all of them."""
    import torch

    batch = padded(rows, tokenizer.pad_token_id, left=True)
    began = time.monotonic()
    try:
        with torch.inference_mode():
            output = model.generate(**batch, generation_config=settings)
    except torch.OutOfMemoryError:
        if len(rows) == 1:
            raise
        return None
    new = output[:, batch["input_ids"].shape[1] :].tolist()
    seconds = time.monotonic() - began
    turns = [(_first_turn(tokens, settings.eos_token_id), len(tokens)) for tokens in new]
    return [
        GeneratedAnswer(
            text=tokenizer.decode(turn),
            stopped=len(turn) < length,
            tokens=len(turn),
            seconds=seconds,
        )
        for turn, length in turns
    ]


def _encoded(
    tokenizer: "PreTrainedTokenizerBase", prompts: Sequence[AskedPrompt], context: int | None
) -> list[list[int] | None]:
    """Return the token ids of each prompt; None for an optional one that cannot be asked."""
    texts = _texts(tokenizer, prompts)
    asked = [n for n, text in enumerate(texts) if text is not None]
    ids: list[list[int] | None] = [None] * len(prompts)
    for n, tokens in zip(asked, encode(tokenizer, [texts[n] or "" for n in asked]), strict=True):
        fits = context is None or len(tokens) + prompts[n].max_new_tokens <= context
        ids[n] = tokens if fits or not prompts[n].optional else None
    return ids


def _texts(
    tokenizer: "PreTrainedTokenizerBase", prompts: Sequence[AskedPrompt]
) -> list[str | None]:
    """Return each prompt as the chat template writes it. Raises TemplateRefused."""
    by_tools: dict[str, list[int]] = {}
    for number, prompt in enumerate(prompts):
        by_tools.setdefault(json.dumps(prompt.tools), []).append(number)
    texts: list[str | None] = [None] * len(prompts)
    with rendering():
        for tools, numbers in by_tools.items():
            chats = [prompts[number].messages for number in numbers]
            schemas = json.loads(tools) or None
            results = rendered(tokenizer, chats, add_generation_prompt=True, tools=schemas)
            for number, result in zip(numbers, results, strict=True):
                if not isinstance(result, Refusal):
                    texts[number] = result
                elif not prompts[number].optional:
                    raise TemplateRefused(number, result.words)
    return texts


def _context(model: Any) -> int | None:
    """Return how many tokens the model has places for, None where its configuration does not say."""
    return largest(model.config.get_text_config(), "max_position_embeddings") or None


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
