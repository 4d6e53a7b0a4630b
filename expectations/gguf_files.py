"""The judges of the GGUF files: the 16-bit one answers as evaluated, each quant stays near to it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expectations.chance import Drop
from expectations.data.masking import mask, masked_fields
from expectations.verdicts import Judgement, Verdict, at_least, severity, within
from retune.held_out import Question, equal
from retune.recipe import Recipe
from retune.recipe.methods import SOURCE
from retune.records import ANSWERS_FILE, Gguf, Scores

CONVERT, QUANTIZE = "convert", "quantize"
DIFFERING = "differing_answers.json"
LEAST_SAME_PROMPTS = 0.5  # a BOS too many or another template shows in every prompt


# By the measure, which is the verdict's name: what was measured, and the setting with its limit.
LIMITS = {
    "perplexity_ratio": ("perplexity over the 16-bit GGUF's", "max_perplexity_ratio"),
    "kl_divergence": ("KL divergence from the 16-bit GGUF", "max_kl_divergence"),
    "same_top_token": ("same top token as the 16-bit GGUF for", "min_same_top_token"),
}
# Measures of answers: what counts is how many answers less have it than the source's, in pairs.
ANSWERS = {
    "exact_match": ("loss of exact match", "max_exact_match_drop"),
    "stopped": ("loss of answers that end by themselves", "max_stopped_drop"),
}


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
        verdicts += [_limit_verdict(name, gguf, recipe) for name in LIMITS]
        pairs = pair_up(gguf, source)
        # Free text has no exact match, and where no question fitted nothing was answered.
        verdicts += [
            _drop_verdict(name, pairs, gguf, recipe)
            for name in ANSWERS
            if pairs and name in source.metrics
        ]
    return Judgement(f"{QUANTIZE} {gguf.method}", gguf.file, verdicts)


def _limit_verdict(name: str, gguf: Gguf, recipe: Recipe) -> Verdict:
    subject, key = LIMITS[name]
    limit = getattr(recipe.quantization.gate(gguf.method), key)
    setting = f"quantization.gates.{gguf.method}.{key}"
    subject = f"{gguf.method}: {subject}"
    return within(QUANTIZE, name, subject, gguf.metrics[name], limit, setting, recipe)


def _drop_verdict(name: str, pairs: "list[AnswerPair]", gguf: Gguf, recipe: Recipe) -> Verdict:
    subject, key = ANSWERS[name]
    limit = getattr(recipe.quantization.gate(gguf.method), key)
    drop = drop_of(name, pairs)
    return Verdict(
        gate=QUANTIZE,
        name=name,
        expected=f"{gguf.method}: {subject} at most {100 * limit:g}%, but for chance",
        seen=f"{drop.share:.1%} ({drop.words(limit)})",
        limit=limit,
        setting=f"quantization.gates.{gguf.method}.{key}",
        severity=severity(recipe, QUANTIZE, name),
        passed=drop.within(limit),
    )


@dataclass(frozen=True)
class AnswerPair:
    """One question, answered by the GGUF and by what it is held against: the tuned model as it was
    evaluated, or the GGUF that it was made of. `rendered` is the expected answer as the chat template
    writes it."""

    row: int
    prompt: str
    expected: str
    rendered: str
    before: dict[str, Any]
    gguf: dict[str, Any]

    @property
    def same(self) -> bool:
        return equal(self.gguf["text"], self.before["text"])

    def exact_match(self, answer: dict[str, Any]) -> bool:
        question = Question(self.row, "", [], self.expected, self.rendered)
        return question.matches(answer["text"])

    def stopped(self, answer: dict[str, Any]) -> bool:
        return answer["stopped"]

    def has(self, name: str) -> tuple[bool, bool]:
        """Tell for a measure of answers whether the one before had it, and whether the GGUF's has."""
        ask = getattr(self, name)
        return ask(self.before), ask(self.gguf)


def drop_of(name: str, pairs: list[AnswerPair]) -> Drop:
    """Return in how many pairs of answers a measure was lost, and in how many gained."""
    had = [pair.has(name) for pair in pairs]
    return Drop(had.count((True, False)), had.count((False, True)), len(had))


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


def pair_up(gguf: Gguf, other: Gguf | Scores) -> list[AnswerPair]:
    """Pair the GGUF's answers with those of another model to the same rows; either may have asked
    fewer."""
    before = {answer["row"]: answer for answer in _read(other)}
    return [
        AnswerPair(
            answer["row"],
            answer["prompt"],
            answer["expected"],
            answer["rendered"],
            before[answer["row"]],
            answer,
        )
        for answer in _read(gguf)
        if answer["row"] in before
    ]


def differing(pairs: list[AnswerPair]) -> list[dict[str, str]]:
    """Return prompt, expected text and both answers, masked, where these differ."""
    rows = [
        {
            "prompt": pair.prompt,
            "expected": pair.expected,
            "evaluated": pair.before["text"],
            "gguf": pair.gguf["text"],
        }
        for pair in pairs
        if not pair.same
    ]
    return masked_fields(rows, ("prompt", "expected", "evaluated", "gguf"))


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
    return _as_evaluated(
        "stopped",
        "as many answers of the GGUF end by themselves as when the model was evaluated",
        pairs,
        recipe,
        "The token that ends a turn is likely no control token in the GGUF, or not its EOS.",
    )


def _exact_match(pairs: list[AnswerPair], recipe: Recipe) -> Verdict:
    return _as_evaluated(
        "exact_match",
        "the GGUF answers as many questions right as the evaluated model",
        pairs,
        recipe,
        "Its prompts are as trained, so its weights likely are not.",
    )


def _as_evaluated(
    name: str, words: str, pairs: list[AnswerPair], recipe: Recipe, fix: str
) -> Verdict:
    """Return the verdict on a measure of answers of the 16-bit GGUF; `words` say what is expected."""
    drop, key = drop_of(name, pairs), ANSWERS[name][1]
    limit = getattr(recipe.quantization.gate(SOURCE), key)
    passed = drop.within(limit)
    before, after = (sum(side) for side in zip(*(pair.has(name) for pair in pairs), strict=True))
    observed = f"{after} of {len(pairs)} ({drop.words(limit)})"
    if not passed:
        lost = next(pair for pair in pairs if pair.has(name) == (True, False))
        observed += (
            f", e.g. row {lost.row}: {mask(lost.gguf['text'])[:80]!r} instead of "
            f"{mask(lost.before['text'])[:80]!r}"
        )
    return Verdict(
        gate=CONVERT,
        name=name,
        expected=f"{words}, {before} of {len(pairs)}, but for a share of {limit:g} and chance",
        seen=observed,
        limit=limit,
        setting=f"quantization.gates.{SOURCE}.{key}",
        severity=severity(recipe, CONVERT, name),
        passed=passed,
        fix=fix,
    )


def _read(answered: Gguf | Scores) -> list[dict[str, Any]]:
    """Return a model's answers; of one that lies in the store, they come without it."""
    with answered.some(ANSWERS_FILE) as folder:
        return json.loads((folder / ANSWERS_FILE).read_text(encoding="utf-8"))
