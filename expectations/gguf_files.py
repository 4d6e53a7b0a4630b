"""The judges of the GGUF files: the 16-bit one answers as evaluated, each quant stays near to it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expectations.verdicts import Judgement, Verdict, at_least, at_most, severity, within
from retune.held_out import equal
from retune.recipe import Recipe
from retune.recipe.methods import SOURCE
from retune.records import Gguf, Scores

CONVERT, QUANTIZE = "convert", "quantize"
DIFFERING = "differing_answers.json"
LEAST_SAME_PROMPTS = 0.5  # a BOS too many or another template shows in every prompt


# By the measure, which is the verdict's name: what was measured, and the setting with its limit. Of
# a setting that ends in `_drop`, what counts is how much less it is than the source's.
LIMITS = {
    "perplexity_ratio": ("perplexity over the 16-bit GGUF's", "max_perplexity_ratio"),
    "kl_divergence": ("KL divergence from the 16-bit GGUF", "max_kl_divergence"),
    "same_top_token": ("same top token as the 16-bit GGUF for", "min_same_top_token"),
    "exact_match": ("loss of exact match", "max_exact_match_drop"),
    "stopped": ("loss of answers that end by themselves", "max_stopped_drop"),
}


ANSWERS = ("exact_match", "stopped")  # measures of answers


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
        verdicts += [
            _limit_verdict(name, gguf, source, recipe)
            for name in LIMITS
            # Free text has no exact match, and where no question fitted nothing was answered.
            if name not in ANSWERS or name in source.metrics
        ]
    return Judgement(f"{QUANTIZE} {gguf.method}", gguf.file, verdicts)


def _limit_verdict(name: str, gguf: Gguf, source: Gguf, recipe: Recipe) -> Verdict:
    subject, key = LIMITS[name]
    value = gguf.metrics[name]
    if key.endswith("_drop"):
        value = source.metrics[name] - value
    limit = getattr(recipe.quantization.gate(gguf.method), key)
    setting = f"quantization.gates.{gguf.method}.{key}"
    return within(QUANTIZE, name, f"{gguf.method}: {subject}", value, limit, setting, recipe)


@dataclass(frozen=True)
class AnswerPair:
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
    metrics = {"same_answers": sum(pair.same for pair in pairs) / len(pairs)} if pairs else {}

    def write(folder: Path) -> tuple[str, ...]:
        text = json.dumps(differing(pairs), indent=1, ensure_ascii=False)
        (folder / DIFFERING).write_text(text, encoding="utf-8")
        return (DIFFERING,)

    return Judgement(CONVERT, "16-bit GGUF", verdicts, metrics=metrics, write=write)


def pair_up(gguf: Gguf, scores: Scores) -> list[AnswerPair]:
    """Pair the GGUF's answers with evaluate's to the same rows; either may have asked fewer."""
    evaluated = {answer["row"]: answer for answer in _read(scores.answers)}
    return [
        AnswerPair(
            answer["row"], answer["prompt"], answer["expected"], evaluated[answer["row"]], answer
        )
        for answer in _read(gguf.answers)
        if answer["row"] in evaluated
    ]


def differing(pairs: list[AnswerPair]) -> list[dict[str, str]]:
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
    learned, actual = gguf.params["eos_learned"], gguf.params["eos"]
    return Verdict(
        gate=CONVERT,
        name="eos",
        expected=f"the GGUF's EOS is the token that the model learned to end a turn with, {learned}",
        seen=actual,
        severity=severity(recipe, CONVERT, "eos"),
        passed=learned == actual,
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


def _stopped(pairs: list[AnswerPair], recipe: Recipe) -> Verdict:
    before = sum(pair.evaluated["stopped"] for pair in pairs)
    after = sum(pair.gguf["stopped"] for pair in pairs)
    limit = recipe.quantization.gate(SOURCE).max_stopped_drop
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


def _exact_match(pairs: list[AnswerPair], recipe: Recipe) -> Verdict:
    right = [pair for pair in pairs if pair.right(pair.evaluated)]
    correct = sum(pair.right(pair.gguf) for pair in pairs)
    limit = recipe.quantization.gate(SOURCE).max_exact_match_drop
    assert limit is not None
    passed = at_most((len(right) - correct) / len(pairs), limit)
    observed = f"{correct} of {len(pairs)}"
    if not passed:
        lost = next(pair for pair in right if not pair.right(pair.gguf))
        observed += (
            f", e.g. row {lost.row}: {lost.gguf['text'][:80]!r} instead of "
            f"{lost.evaluated['text'][:80]!r}"
        )
    return Verdict(
        gate=CONVERT,
        name="exact_match",
        expected=f"the GGUF answers as many questions right as the evaluated model, {len(right)} of "
        f"{len(pairs)}, but for a share of {limit:g}",
        seen=observed,
        limit=limit,
        setting="quantization.gates.bf16.max_exact_match_drop",
        severity=severity(recipe, CONVERT, "exact_match"),
        passed=passed,
        fix="Its prompts are as trained, so its weights likely are not.",
    )


def _read(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text(encoding="utf-8"))
