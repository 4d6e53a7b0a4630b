"""The outcomes of the held-out rows: the loss of each, and how each question was answered."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from retune.held_out import Question
from retune.outcomes import HELD_OUT, LOSS, Outcome, example_name
from retune.row_losses import RowLoss
from tasks.evaluate.scores import SIDES, is_repetitive

EXACT_MATCH, STOPPED, REPETITIVE = "exact_match", "stopped", "repetitive"


def outcomes(
    rows: Sequence[tuple[str, list[dict[str, str]]]],
    losses: Mapping[str, Sequence[RowLoss]],
    questions: Sequence[Question],
    answers: Mapping[str, Sequence[Mapping[str, Any]]],
) -> Iterator[Outcome]:
    """Yield what either side did with each held-out row, and then with each question.

    `rows` are family and messages of those that the `losses` are of; further answers than there are
    questions are not graded. A row without a token to be learnt has no loss.
    """
    for side in SIDES:
        for (family, messages), loss in zip(rows, losses[side], strict=True):
            if loss.tokens:
                yield _of_loss(side, family, messages, loss)
        for question, answer in zip(questions, answers[side], strict=False):
            yield _of_answer(side, question, answer)


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


def _of_answer(side: str, question: Question, answer: Mapping[str, Any]) -> Outcome:
    text, stopped = answer["text"], answer["stopped"]
    return Outcome(
        side=side,
        suite=HELD_OUT,
        slice=question.family,
        example=example_name(question.prompt, question.expected),
        prompt=json.dumps(question.prompt, ensure_ascii=False),
        expected=question.expected,
        answer=text,
        stopped=stopped,
        tokens=answer.get("tokens", 0),
        seconds=answer.get("seconds"),
        grades={
            EXACT_MATCH: float(question.matches(text)),
            STOPPED: float(stopped),
            REPETITIVE: float(is_repetitive(text)),
        },
    )
