"""Losses and answers of base and tuned model as measures, in all and per family of rows.

A family is what a row's `source` names.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from retune.files import digest
from retune.held_out import Question, verifiable
from retune.outcomes import BASE, TUNED
from retune.row_losses import RowLoss, likelihoods, mean_loss

SIDES = (BASE, TUNED)
FAMILIES = 20  # with the most rows, that have a loss of their own
REPEATED_WORDS, REPETITIONS = 6, 3  # a sequence of so many words, so often, is a loop
LONGEST_NAME = 60  # characters of a family in a metric's name


def losses(rows: Mapping[str, Sequence[RowLoss]], families: Sequence[str]) -> dict[str, float]:
    """Return the likelihoods of each side, and the losses of the largest families of rows.

    `rows` are by side, in the order of `families`.
    """
    metrics = likelihoods(rows)
    largest = [family for family, _ in Counter(families).most_common(FAMILIES)]
    if len(largest) < 2:
        return metrics
    names = metric_names(families)
    for family in largest:
        name = names[family]
        for side, of_side in rows.items():
            own = [row for row, other in zip(of_side, families, strict=True) if other == family]
            metrics[f"loss/{name}/{side}"] = mean_loss(own)
    return metrics


def exact_match(
    questions: list[Question], answers: Mapping[str, Sequence[str]]
) -> dict[str, float]:
    """Return the share of answers (0 to 1) that equal the expected text, in all and per family.

    Empty where that says nothing: the expected answers are free text, and no side gets them.
    """
    if not questions:
        return {}
    names = metric_names(question.family for question in questions)
    groups: dict[str, list[int]] = {"exact_match": list(range(len(questions)))}
    for number, question in enumerate(questions):
        groups.setdefault(f"exact_match/{names[question.family]}", []).append(number)
    right = {
        side: [q.matches(answer) for q, answer in zip(questions, answers[side], strict=False)]
        for side in SIDES
    }
    if not verifiable(questions, max(map(fmean, right.values()))):
        return {}
    return {
        f"{name}/{side}": fmean(right[side][number] for number in numbers)
        for name, numbers in groups.items()
        for side in SIDES
    }


def behaviour(
    questions: list[Question], answers: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[str, float]:
    """Return what can be said of any answers to the questions: the share (0 to 1) that ended by
    themselves, the share that repeats itself, and the length relative to the expected one."""
    if not questions:
        return {}
    metrics = {}
    expected = sum(len(question.rendered or question.expected) for question in questions)
    for side in SIDES:
        own = answers[side][: len(questions)]
        metrics[f"stopped/{side}"] = fmean(answer["stopped"] for answer in own)
        metrics[f"repetitive/{side}"] = fmean(is_repetitive(answer["text"]) for answer in own)
        length = sum(len(answer["text"]) for answer in own)
        metrics[f"relative_length/{side}"] = length / max(1, expected)
    return metrics


def is_repetitive(text: str) -> bool:
    """Tell whether a sequence of REPEATED_WORDS words stands in `text` REPETITIONS times."""
    words = text.split()
    ends = range(REPEATED_WORDS, len(words) + 1)
    sequences = Counter(tuple(words[end - REPEATED_WORDS : end]) for end in ends)
    return any(count >= REPETITIONS for count in sequences.values())


def metric_names(families: Iterable[str]) -> dict[str, str]:
    """Return a name that MLflow takes for each family, in whatever alphabet it is; no two are equal."""
    plain = {family: re.sub(r"[^\w.-]", "_", family)[:LONGEST_NAME] or "_" for family in families}
    count = Counter(plain.values())
    # By the family itself, so that a name is the same in each metric and each run.
    return {
        family: name if name == family or count[name] == 1 else f"{name}-{digest(family)[:4]}"
        for family, name in plain.items()
    }
