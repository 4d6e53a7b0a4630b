"""The suites of lm-eval, tried before anything is trained: on their data, with answers that are right.

What a task's own functions and data do shows only when they run; hours later it would end a run.
"""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import BaseModel

from retune.child import run_child
from retune.outputs import Step
from retune.recipe import Recipe
from retune.records import Pins
from retune.suites.harness import AskedTask, asked_tasks

CHILD = Path(__file__).with_name("trial_child.py")


class TrialJob(BaseModel):
    """The suites to try."""

    tasks: list[AskedTask]


def try_tasks(recipe: Recipe, pins: Pins, step: Step) -> Iterator[str]:
    """Yield a sentence for each suite of lm-eval that evaluate will ask; none if it is done.

    Raises ChildRefused for a task that does not load, or grades by what is no number from 0 to 1;
    HubUnreachable where its data cannot be had.
    """
    tasks = asked_tasks(recipe, pins.tasks)
    if not tasks or step.done:
        return
    with TemporaryDirectory(prefix="retune-trial-") as folder:
        hub = any(task.pin.commits for task in tasks)
        log = Path(folder) / "trial.log"
        result = run_child(CHILD, TrialJob(tasks=tasks), log, hub=hub, forked=True)
    for task in tasks:
        count = result["examples"][task.task.name]
        yield f"{task.task.name}: {count:,} examples of {task.task.task}, by lm-eval {task.pin.harness}"
