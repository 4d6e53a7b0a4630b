"""What came of the suites of lm-eval, as outcomes."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import BaseModel

from retune.journal import Journal
from retune.outcomes import PASSED, Outcome
from retune.records import HarnessLeaf
from retune.suites.harness import AskedTask


class HarnessSample(BaseModel):
    """One example as a model did it: what was asked (`messages`, before the chat template), `expected`
    and `answer` as text, and the `grade` from 0 to 1, None where the metric has no number for it."""

    example: str
    messages: list[dict[str, Any]]
    expected: str
    answer: str
    grade: float | None


# The examples of a model, by suite and task.
BySuite: TypeAlias = dict[str, dict[str, list[HarnessSample]]]
BySide: TypeAlias = dict[str, BySuite]


def sample_key(side: str, task: AskedTask, leaf: HarnessLeaf) -> str:
    """Return by what the examples of a task are kept in the journal of the answers so far."""
    return f"task {side}/{task.task.name}/{leaf.name}"


def of_side(log: Path, side: str, tasks: Sequence[AskedTask]) -> BySuite:
    """Return what one side did, which is in the journal `log` when all is asked."""
    known = Journal(log).known if tasks else {}
    return {
        task.task.name: {
            leaf.name: [
                HarnessSample.model_validate(sample)
                for sample in known[sample_key(side, task, leaf)]
            ]
            for leaf in task.pin.leaves
        }
        for task in tasks
    }


def task_outcomes(tasks: BySide) -> Iterator[Outcome]:
    """Yield what each side did with each example; what its metric has no number for is not graded."""
    for side, suites in tasks.items():
        for suite, leaves in suites.items():
            for leaf, samples in leaves.items():
                for sample in samples:
                    yield Outcome(
                        side=side,
                        suite=suite,
                        slice=leaf,
                        example=sample.example,
                        prompt=json.dumps(sample.messages, ensure_ascii=False),
                        expected=sample.expected,
                        answer=sample.answer,
                        stopped=None,
                        tokens=0,
                        seconds=None,
                        grades={} if sample.grade is None else {PASSED: sample.grade},
                    )
