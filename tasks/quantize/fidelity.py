"""Does the 16-bit GGUF answer like the model that was evaluated? If not, no file of it would."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from retune import llamacpp
from retune.chat import encode
from retune.config import QuantGate
from retune.held_out import Question
from retune.records import Scores
from retune.templates import render
from tasks.quantize.verdict import within

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class GgufMismatch(ValueError):
    """The GGUF does not behave as the model that was trained and evaluated."""


@dataclass(frozen=True)
class Pair:
    """One question, answered by the GGUF (`after`) and, when it was evaluated, by the tuned model."""

    question: Question
    before: str
    stopped_before: bool
    after: llamacpp.Answer

    @property
    def same(self) -> bool:
        return self.before.strip() == self.after.text.strip()


def pair_up(asked: list[Question], given: list[llamacpp.Answer], scores: Scores) -> list[Pair]:
    """Pair the GGUF's answers with evaluate's to the same rows; it may have asked fewer."""
    listed = json.loads(scores.answers.read_text(encoding="utf-8"))
    seen = {answer["row"]: answer for answer in listed}
    return [
        Pair(question, seen[question.row]["text"], seen[question.row]["stopped"], answer)
        for question, answer in zip(asked, given, strict=True)
        if question.row in seen
    ]


def differing(pairs: list[Pair]) -> list[dict[str, str]]:
    """Return prompt, expected text and both answers, where these differ."""
    return [
        {
            "prompt": pair.question.prompt[-1]["content"] if pair.question.prompt else "",
            "expected": pair.question.expected,
            "evaluated": pair.before,
            "gguf": pair.after.text,
        }
        for pair in pairs
        if not pair.same
    ]


def require_end_of_turn(gguf: Path, tokenizer: "PreTrainedTokenizerBase") -> None:
    """Raise GgufMismatch unless the GGUF's EOS is the token that the model learned to end with."""
    eos = llamacpp.facts(gguf).eos
    if eos != tokenizer.eos_token_id:
        found = "none" if eos is None else f"{eos} ({tokenizer.convert_ids_to_tokens(eos)})"
        raise GgufMismatch(
            f"wrong EOS: the model learned to end a turn with token {tokenizer.eos_token_id} "
            f"({tokenizer.eos_token}), the GGUF's EOS is {found}; programs would not stop where a turn "
            f"ends. Compare eos_token_id in the merged model's config.json and generation_config.json"
        )


def require_prompts(
    tokenizer: "PreTrainedTokenizerBase", asked: list[Question], given: list[llamacpp.Answer]
) -> float:
    """Return the share of prompts that have as many tokens in llama.cpp as the model was trained on.

    Raises GgufMismatch if it is less than half. A BOS too many or another template shows in every
    prompt; a few odd texts may differ (accents written apart from their letter, for one).
    """
    texts = render(tokenizer, [q.prompt for q in asked], add_generation_prompt=True)
    trained = [len(ids) for ids in encode(tokenizer, texts)]
    more = [answer.prompt_tokens - length for answer, length in zip(given, trained, strict=True)]
    same = more.count(0) / len(more)
    if same < 0.5:
        example = next(number for number, extra in enumerate(more) if extra)
        raise GgufMismatch(
            f"{_prompt_fault(more)}: {len(more) - more.count(0)} of {len(more)} prompts have another "
            f"number of tokens in llama.cpp than in training, e.g. row {asked[example].row} "
            f"{given[example].prompt_tokens} instead of {trained[example]}"
        )
    return same


def _prompt_fault(more: list[int]) -> str:
    """Name the likely cause of prompts that are longer by `more` tokens each."""
    if set(more) == {1}:
        return "double BOS, or one where training saw none (tokenizer.ggml.add_bos_token)"
    if set(more) == {-1}:
        return "BOS is missing that training saw (tokenizer.ggml.add_bos_token)"
    return "wrong chat template, or control tokens that llama.cpp reads as plain text"


def require_answers(pairs: list[Pair], gate: QuantGate) -> float:
    """Return the share of questions answered the same; `gate` is that of the 16-bit GGUF.

    Raises GgufMismatch if fewer answers end by themselves, or are right, than evaluate saw.
    """
    count = len(pairs)
    ended = [sum(pair.stopped_before for pair in pairs), sum(pair.after.stopped for pair in pairs)]
    if not within((ended[0] - ended[1]) / count, gate.max_stopped_drop):
        raise GgufMismatch(
            f"{ended[1]} of {count} answers of the GGUF end by themselves, {ended[0]} did when the model "
            f"was evaluated (quantization.gates.bf16.max_stopped_drop={gate.max_stopped_drop:g}): the "
            f"token that ends a turn is likely no control token in the GGUF, or not its EOS"
        )
    right = [pair for pair in pairs if pair.question.matches(pair.before)]
    still = sum(pair.question.matches(pair.after.text) for pair in pairs)
    if not within((len(right) - still) / count, gate.max_exact_match_drop):
        lost = next(pair for pair in right if not pair.question.matches(pair.after.text))
        raise GgufMismatch(
            f"the GGUF answers {still} of {count} questions right, the evaluated model {len(right)} "
            f"(quantization.gates.bf16.max_exact_match_drop={gate.max_exact_match_drop:g}), e.g. row "
            f"{lost.question.row}: {lost.after.text[:80]!r} instead of {lost.before[:80]!r}; its prompts "
            f"are as trained, so its weights likely are not"
        )
    return sum(pair.same for pair in pairs) / count
