"""The outcomes: the loss of each held-out row, how each question was answered, and each probe."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from retune.held_out import Question
from retune.outcomes import HELD_OUT, LOSS, PASSED, Outcome, example_name
from retune.recipe.evaluation import INCIDENTS
from retune.refusals import refusing
from retune.row_losses import RowLoss
from retune.suites.graders import Reply, spoken
from retune.suites.probes import SuiteProbe
from tasks.evaluate.asking import Questionnaire, Replies
from tasks.evaluate.scores import is_repetitive

EXACT_MATCH, STOPPED, REPETITIVE, REFUSED = "exact_match", "stopped", "repetitive", "refused"


def outcomes(
    asked: Questionnaire,
    rows: Sequence[tuple[str, list[dict[str, str]]]],
    losses: Mapping[str, Sequence[RowLoss]],
    answers: Mapping[str, Replies],
) -> Iterator[Outcome]:
    """Yield what each side of `answers` did with each held-out row, question and probe.

    `rows` are family and messages of those that the `losses` are of, if they were taken. A row without
    a token to be learnt has no loss, and what a side could not be asked has no outcome.
    """
    for side, replies in answers.items():
        for (family, messages), loss in zip(rows, losses.get(side, ()), strict=side in losses):
            if loss.tokens:
                yield _of_loss(side, family, messages, loss)
        yield from _of_questions(side, asked.questions, asked.of_questions(replies))
        for suite, of_suite in asked.of_suites(replies).items():
            yield from _of_suite(side, suite, asked.suites[suite], of_suite)


def names(asked: Questionnaire, rows: Sequence[tuple[str, list[dict[str, str]]]]) -> set[str]:
    """Return the name of every example that a side can have an outcome of."""
    return {
        *(example_name(messages, LOSS) for _, messages in rows),
        *(example_name(question.prompt, question.expected) for question in asked.questions),
        *(probe.example for probes in asked.suites.values() for probe in probes),
    }


def _of_loss(side: str, family: str, messages: list[dict[str, str]], loss: RowLoss) -> Outcome:
    return Outcome(
        side=side,
        suite=HELD_OUT,
        slice=family,
        example=example_name(messages, LOSS),
        prompt=json.dumps(messages, ensure_ascii=False),
        expected="",
        answer=None,
        stopped=None,
        tokens=loss.tokens,
        seconds=None,
        grades={LOSS: loss.nats / loss.tokens},
    )


def _of_questions(
    side: str, questions: Sequence[Question], replies: Sequence[Mapping[str, Any]]
) -> Iterator[Outcome]:
    refusals = refusing([spoken(reply["text"]) for reply in replies])
    for question, reply, refuses in zip(questions, replies, refusals, strict=True):
        text = reply["text"]
        yield Outcome(
            side=side,
            suite=HELD_OUT,
            slice=question.family,
            example=example_name(question.prompt, question.expected),
            prompt=json.dumps(question.prompt, ensure_ascii=False),
            expected=question.expected,
            answer=text,
            stopped=reply["stopped"],
            tokens=reply["tokens"],
            seconds=reply["seconds"],
            grades={
                EXACT_MATCH: float(question.matches(text)),
                STOPPED: float(reply["stopped"]),
                REPETITIVE: float(is_repetitive(text)),
                REFUSED: float(refuses),
            },
        )


def _of_suite(
    side: str, suite: str, probes: Sequence[SuiteProbe], replies: Sequence[Mapping[str, Any] | None]
) -> Iterator[Outcome]:
    given = [(probe, reply) for probe, reply in zip(probes, replies, strict=True) if reply]
    texts = [spoken(reply["text"]) for _, reply in given]
    for (probe, reply), text, refuses in zip(given, texts, refusing(texts), strict=True):
        passed = probe.passed(Reply(text, reply["stopped"], refuses))
        yield _of_probe(side, suite, probe)._replace(
            answer=reply["text"],
            stopped=reply["stopped"],
            tokens=reply["tokens"],
            seconds=reply["seconds"],
            grades=({} if passed is None else {PASSED: float(passed)})
            | {
                STOPPED: float(reply["stopped"]),
                REPETITIVE: float(is_repetitive(reply["text"])),
                REFUSED: float(refuses),
            },
        )
    if suite == INCIDENTS:  # every case has to be passed: one that nobody could ask is not
        for probe, answered in zip(probes, replies, strict=True):
            if not answered:
                label = f"not asked: {probe.label}".rstrip(": ")
                yield _of_probe(side, suite, probe)._replace(grades={PASSED: 0.0}, label=label)


def _of_probe(side: str, suite: str, probe: SuiteProbe) -> Outcome:
    """Return the outcome of a probe that was not answered."""
    return Outcome(
        side=side,
        suite=suite,
        slice=probe.slice,
        example=probe.example,
        prompt=json.dumps(probe.chat, ensure_ascii=False),
        expected=json.dumps(probe.grading, ensure_ascii=False),
        answer=None,
        stopped=None,
        tokens=0,
        seconds=None,
        grades={},
        label=probe.label,
    )
