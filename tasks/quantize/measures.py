"""What is measured of a GGUF file, alone or against the 16-bit one."""

from pathlib import Path

from retune import llamacpp
from retune.held_out import Question, verifiable
from retune.machine import cores
from retune.recipe import Quantization, Recipe
from retune.records import Gguf


def threads(config: Quantization) -> int:
    """Return the threads that the recipe, or the fan-out, gives to one program; else the cores."""
    return config.threads or cores()


def size_of(gguf: Path) -> dict[str, float]:
    """Return its bytes, and its bits per weight."""
    facts = llamacpp.facts(gguf)
    return {"bytes": facts.size, "bits_per_weight": facts.bits_per_weight}


def measure(gguf: Path, logits: Path, perplexity: float, config: Quantization) -> dict[str, float]:
    """Return size, perplexity and divergence (nats per token) from the model that left `logits` and has
    `perplexity` on the same tokens."""
    sizes = size_of(gguf)
    divergence = llamacpp.divergence(gguf, logits, config.context, threads(config))
    return sizes | {
        "perplexity": divergence.perplexity,
        # Not llama.cpp's: what it keeps of the source's logits ends 16 nats below the likeliest token,
        # so that a token of which the source was surely wrong would count as a loss of the quant.
        "perplexity_ratio": divergence.perplexity / perplexity,
        "kl_divergence": divergence.mean,
        "same_top_token": divergence.same_top,
    }


def answer(gguf: Path, questions: list[Question], recipe: Recipe) -> llamacpp.Answered:
    """Ask the questions as evaluate did: same order, same limit of tokens."""
    prompts = [question.prompt for question in questions]
    max_tokens = recipe.evaluation.max_new_tokens
    return llamacpp.answers(gguf, prompts, max_tokens, threads(recipe.quantization))


def summed_up(
    questions: list[Question], answered: llamacpp.Answered, source: Gguf | None = None
) -> dict[str, float]:
    """Return exact match, the share (0 to 1) of answers that ended by themselves, and the speed.

    Free text has no exact match; of a quant, it is measured if it was of its `source`.
    Tokens per second are of one answer on its own, on the GPU or by the threads that measuring was
    given, while other quantizations may run.
    """
    pairs = list(zip(questions, answered.answers, strict=True))
    if not pairs:
        return {}
    right = sum(q.matches(a.text) for q, a in pairs) / len(pairs)
    applies = "exact_match" in source.metrics if source else verifiable(questions, right)
    return {
        **({"exact_match": right} if applies else {}),
        "stopped": sum(a.stopped for _, a in pairs) / len(pairs),
        "tokens_per_second": answered.tokens_per_second,
    }
