"""The child process that tries tasks of lm-eval, with a model that says what is expected."""

import traceback
from contextlib import nullcontext
from typing import Any

from retune.child import Event, main
from retune.errors import RetuneError
from retune.records import HarnessLeaf
from retune.sources import asking_hub
from retune.suites.harness_tasks import TaskRefused
from tasks.evaluate.harness import Loader, evaluated, prepare, samples
from tasks.evaluate.trial import TrialJob

ROWS = 2  # of each task


def work(job: TrialJob) -> Event:
    """Return how many examples each suite has. Raises TaskRefused, which names the setting."""
    examples = {}
    for number, task in enumerate(job.tasks):
        setting = f"evaluation.tasks.{number}"
        try:
            loader = Loader(task)
            examples[task.task.name] = sum(
                _tried(loader, leaf, setting) for leaf in task.pin.leaves
            )
        except TaskRefused as refusal:
            raise TaskRefused(f"{setting}: {refusal}") from None
    return {"examples": examples}


def _tried(loader: Loader, leaf: HarnessLeaf, setting: str) -> int:
    """Return how many examples of a task are asked, once two of them were. Raises TaskRefused."""
    hub = (
        asking_hub(leaf.dataset, "dataset", setting, TaskRefused) if leaf.dataset else nullcontext()
    )
    rows = loader.task.task.rows
    try:
        with hub:
            task = loader.load(leaf)
        prepare(task, loader.task.task.few_shot)
        results = evaluated(_right(task), task, leaf, min(rows or ROWS, ROWS), chat=False)
        list(samples(results, leaf, lambda _: []))
        return min(rows or len(task.eval_docs), len(task.eval_docs))
    except RetuneError:
        raise
    # What a task's functions raise is theirs, whose file and line are told.
    except Exception as error:
        traceback.print_exc()
        last = traceback.extract_tb(error.__traceback__)[-1]
        words = f"{type(error).__name__}: {error}".strip().partition("\n")[0]
        raise TaskRefused(
            f"{leaf.name} cannot be asked: {words:.300} ({last.filename}, line {last.lineno}); see "
            f"whether lm-eval runs it by itself"
        ) from error


def _right(task: Any) -> Any:
    """Return a model that finds every answer equally likely, and says what a task expects."""
    from lm_eval.api.model import LM

    class Right(LM):
        def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
            return [(-1.0, True)] * len(requests)

        def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
            return [-1.0] * len(requests)

        def generate_until(self, requests: list[Any]) -> list[str]:
            return [_expected(task, request.doc) for request in requests]

    return Right()


def _expected(task: Any, doc: Any) -> str:
    target = task.doc_to_target(doc)
    if isinstance(target, int) and task.config.doc_to_choice is not None:
        return str(task.doc_to_choice(doc)[target])
    return str(target[0] if isinstance(target, list) and target else target)


if __name__ == "__main__":
    main(TrialJob, work)
