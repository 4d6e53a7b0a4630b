"""What tells whether the 16-bit GGUF is asked, and ends its answers, as the model was trained."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retune import llamacpp
from retune.chat import encode
from retune.held_out import Question
from retune.templates import render

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def ends_of_turn(gguf: Path, tokenizer: "PreTrainedTokenizerBase") -> dict[str, str]:
    """Return the GGUF's EOS, `eos`, and the token that the model learned to end with,
    `eos_learned`; both as `<id> (<token>)`."""
    learned, eos = tokenizer.eos_token_id, llamacpp.facts(gguf).eos
    return {
        "eos_learned": f"{learned} ({tokenizer.eos_token})",
        "eos": "none" if eos is None else f"{eos} ({tokenizer.convert_ids_to_tokens(eos)})",
    }


def same_prompts(
    tokenizer: "PreTrainedTokenizerBase", questions: list[Question], served: Sequence[int]
) -> tuple[float, str]:
    """Return the share of prompts that have as many tokens in llama.cpp, `served`, as the model was
    trained on, and what is wrong with the others, empty if they are all the same.

    A BOS too many or another template shows in every prompt; a few unusual texts may differ (accents
    written apart from their letter, for one).
    """
    if not questions:
        return (
            0.0,
            "no held-out conversation fits into model.max_length, so that none could be asked",
        )
    texts = render(tokenizer, [q.prompt for q in questions], add_generation_prompt=True)
    trained = [len(ids) for ids in encode(tokenizer, texts)]
    more = [count - length for count, length in zip(served, trained, strict=True)]
    share = more.count(0) / len(more)
    if share == 1:
        return share, ""
    example = next(number for number, extra in enumerate(more) if extra)
    return share, (
        f"{_prompt_fault(more)}: {len(more) - more.count(0)} of {len(more)} prompts have another "
        f"number of tokens in llama.cpp than in training, e.g. row {questions[example].row} "
        f"{served[example]} instead of {trained[example]}"
    )


def _prompt_fault(more: list[int]) -> str:
    """Name the likely cause of prompts that are longer by `more` tokens each."""
    if set(more) == {1}:
        return "double BOS, or one where training saw none (tokenizer.ggml.add_bos_token)"
    if set(more) == {-1}:
        return "BOS is missing that training saw (tokenizer.ggml.add_bos_token)"
    return "wrong chat template, or control tokens that llama.cpp reads as plain text"


def by_row(questions: list[Question], answers: Sequence[llamacpp.Answer]) -> list[dict[str, Any]]:
    """Return each question with the answer that it got."""
    return [
        {
            "row": question.row,
            "prompt": question.prompt[-1]["content"] if question.prompt else "",
            "expected": question.expected,
            "rendered": question.rendered,
            "text": answer.text,
            "stopped": answer.stopped,
        }
        for question, answer in zip(questions, answers, strict=True)
    ]
