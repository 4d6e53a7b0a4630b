"""The judges of the GGUF files: the 16-bit one answers as evaluated, each quant stays near to it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from expectations.verdicts import Judgement, Verdict, at_least, at_most, severity
from retune.config import SOURCE_METHOD, Recipe
from retune.held_out import equal
from retune.records import Gguf, Scores

CONVERT, QUANTIZE = "convert", "quantize"
DIFFERING = "differing_answers.json"
LEAST_SAME_PROMPTS = 0.5  # a BOS too many or another template shows in every prompt


class _Limit(NamedTuple):
    """A measure of a quant, the limit of its gate, and whether it is held against the source's."""

    name: str
    setting: str
    words: str
    dropped: bool = False
    least: bool = False


LIMITS = (
    _Limit("perplexity_ratio", "max_perplexity_ratio", "perplexity over the 16-bit GGUF's"),
    _Limit("kl_divergence", "max_kl_divergence", "KL divergence from the 16-bit GGUF"),
    _Limit(
        "same_top_token", "min_same_top_token", "share of tokens with the same top rank", least=True
    ),
    _Limit("exact_match", "max_exact_match_drop", "loss of exact match", dropped=True),
    _Limit("stopped", "max_stopped_drop", "loss of answers that end by themselves", dropped=True),
)


def quant(gguf: Gguf, source: Gguf, recipe: Recipe) -> Judgement:
    """Return the verdicts on one quant against the 16-bit GGUF it was made of."""
    verdicts = [
        Verdict(
            gate=QUANTIZE,
            name="loads",
            expected=f"llama.cpp loads {gguf.file} and computes with it",
            seen=gguf.failure or "it does",
            severity=severity(recipe, QUANTIZE, "loads"),
            passed=not gguf.failure,
        )
    ]
    if not gguf.failure:
        verdicts += [_held_against(limit, gguf, source, recipe) for limit in LIMITS]
    return Judgement(f"{QUANTIZE} {gguf.method}", gguf.file, verdicts)


def _held_against(limit: _Limit, gguf: Gguf, source: Gguf, recipe: Recipe) -> Verdict:
    value = gguf.metrics[limit.name]
    if limit.dropped:
        value = source.metrics[limit.name] - value
    bound = getattr(recipe.quantization.gate(gguf.method), limit.setting)
    words = "at least" if limit.least else "at most"
    return Verdict(
        gate=QUANTIZE,
        name=limit.name,
        expected=f"{gguf.method}: {limit.words} {words} {bound:g}",
        seen=f"{value:.4g}",
        limit=bound,
        setting=f"quantization.gates.{gguf.method}.{limit.setting}",
        severity=severity(recipe, QUANTIZE, limit.name),
        passed=(at_least if limit.least else at_most)(value, bound),
    )


@dataclass(frozen=True)
class Pair:
    """One question, answered by the GGUF and, when it was evaluated, by the tuned model."""

    row: int
    prompt: str
    expected: str
    evaluated: dict[str, Any]
    gguf: dict[str, Any]

    @property
    def same(self) -> bool:
        return equal(self.gguf["text"], self.evaluated["text"])

    def right(self, answer: dict[str, Any]) -> bool:
        return equal(answer["text"], self.expected)


def source(gguf: Gguf, scores: Scores, recipe: Recipe) -> Judgement:
    """Return the verdicts on the 16-bit GGUF against the model that was evaluated."""
    pairs = pair_up(gguf, scores)
    verdicts = [_eos(gguf, recipe), _prompts(gguf, recipe)]
    if pairs:
        verdicts += [_stopped(pairs, recipe), _exact_match(pairs, recipe)]
    same = {"same_answers": sum(pair.same for pair in pairs) / len(pairs)} if pairs else {}

    def write(folder: Path) -> tuple[str, ...]:
        text = json.dumps(differing(pairs), indent=1, ensure_ascii=False)
        (folder / DIFFERING).write_text(text, encoding="utf-8")
        return (DIFFERING,)

    return Judgement(CONVERT, "16-bit GGUF", verdicts, metrics=same, write=write)


def pair_up(gguf: Gguf, scores: Scores) -> list[Pair]:
    """Pair the GGUF's answers with evaluate's to the same rows; either may have asked fewer."""
    evaluated = {answer["row"]: answer for answer in _read(scores.answers)}
    return [
        Pair(one["row"], one["prompt"], one["expected"], evaluated[one["row"]], one)
        for one in _read(gguf.answers)
        if one["row"] in evaluated
    ]


def differing(pairs: list[Pair]) -> list[dict[str, str]]:
    """Return prompt, expected text and both answers, where these differ."""
    return [
        {
            "prompt": pair.prompt,
            "expected": pair.expected,
            "evaluated": pair.evaluated["text"],
            "gguf": pair.gguf["text"],
        }
        for pair in pairs
        if not pair.same
    ]


def _eos(gguf: Gguf, recipe: Recipe) -> Verdict:
    learned, seen = gguf.params["eos_learned"], gguf.params["eos"]
    return Verdict(
        gate=CONVERT,
        name="eos",
        expected=f"the GGUF's EOS is the token that the model learned to end a turn with, {learned}",
        seen=seen,
        severity=severity(recipe, CONVERT, "eos"),
        passed=learned == seen,
        fix="Wrong EOS: programs would not stop where a turn ends. Compare eos_token_id in the merged "
        "model's config.json and generation_config.json.",
    )


def _prompts(gguf: Gguf, recipe: Recipe) -> Verdict:
    share = gguf.metrics["same_prompts"]
    return Verdict(
        gate=CONVERT,
        name="prompts",
        expected="prompts have as many tokens in llama.cpp as in training",
        seen=gguf.params["prompts"] or f"{share:.1%} of them do",
        limit=LEAST_SAME_PROMPTS,
        severity=severity(recipe, CONVERT, "prompts"),
        passed=at_least(share, LEAST_SAME_PROMPTS),
    )


def _stopped(pairs: list[Pair], recipe: Recipe) -> Verdict:
    before = sum(pair.evaluated["stopped"] for pair in pairs)
    after = sum(pair.gguf["stopped"] for pair in pairs)
    limit = recipe.quantization.gate(SOURCE_METHOD).max_stopped_drop
    assert limit is not None
    return Verdict(
        gate=CONVERT,
        name="stopped",
        expected=f"as many answers of the GGUF end by themselves as when the model was evaluated, "
        f"{before} of {len(pairs)}, but for a share of {limit:g}",
        seen=f"{after} of {len(pairs)}",
        limit=limit,
        setting="quantization.gates.bf16.max_stopped_drop",
        severity=severity(recipe, CONVERT, "stopped"),
        passed=at_most((before - after) / len(pairs), limit),
        fix="The token that ends a turn is likely no control token in the GGUF, or not its EOS.",
    )


def _exact_match(pairs: list[Pair], recipe: Recipe) -> Verdict:
    right = [pair for pair in pairs if pair.right(pair.evaluated)]
    still = sum(pair.right(pair.gguf) for pair in pairs)
    limit = recipe.quantization.gate(SOURCE_METHOD).max_exact_match_drop
    assert limit is not None
    passed = at_most((len(right) - still) / len(pairs), limit)
    seen = f"{still} of {len(pairs)}"
    if not passed:
        lost = next(pair for pair in right if not pair.right(pair.gguf))
        seen += (
            f", e.g. row {lost.row}: {lost.gguf['text'][:80]!r} instead of "
            f"{lost.evaluated['text'][:80]!r}"
        )
    return Verdict(
        gate=CONVERT,
        name="exact_match",
        expected=f"the GGUF answers as many questions right as the evaluated model, {len(right)} of "
        f"{len(pairs)}, but for a share of {limit:g}",
        seen=seen,
        limit=limit,
        setting="quantization.gates.bf16.max_exact_match_drop",
        severity=severity(recipe, CONVERT, "exact_match"),
        passed=passed,
        fix="Its prompts are as trained, so its weights likely are not.",
    )


def _read(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text(encoding="utf-8"))
