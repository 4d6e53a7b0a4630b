"""What a GGUF would say next, as a number: the proof that llama.cpp computes what the model does."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from retune.llamacpp.process import LlamaCppFailed, existing
from retune.llamacpp.server import serving


class Choice(NamedTuple):
    """The token that a model finds likeliest, and the natural logarithm of its probability."""

    token: int
    log_probability: float


def first_choices(
    gguf: Path,
    prompts: Sequence[Sequence[int]],
    seconds: float | None = None,
    memory: int | None = None,
) -> list[Choice | None]:
    """Return the first choice after each prompt, which is given as token ids.

    None where llama.cpp tells no probability: of a token that ends within a character. Raises
    FileNotFoundError, or LlamaCppFailed, also for what takes longer than `seconds` or more than
    `memory` bytes.
    """
    existing(gguf, "the GGUF to ask")
    longest = max(map(len, prompts), default=0)
    options: list[str | Path] = ["--model", gguf.absolute(), "--no-warmup", "--fit", "off"]
    options += ["--parallel", "1", "--threads", "1", "--ctx-size", str(longest + 2)]
    with serving(options, LlamaCppFailed, seconds, memory) as server:
        return [_choice(server.post("/completion", _request(prompt))) for prompt in prompts]


def _request(prompt: Sequence[int]) -> dict[str, object]:
    sampling = {"temperature": 0, "n_probs": 1, "cache_prompt": False}
    return {"prompt": list(prompt), "n_predict": 1, **sampling}


def _choice(reply: dict[str, list[dict[str, float]]]) -> Choice | None:
    told = reply.get("completion_probabilities")
    return Choice(int(told[0]["id"]), told[0]["logprob"]) if told else None
