"""Under which conditions a model was measured: what must be equal for two measures to be compared.

Each line of outcomes has it, as the JSON of a record by name (`Conditions`), so that what was recorded
long ago is not taken for what would be seen now.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from retune.anchors import engine, rendering
from retune.machine import compute_capabilities
from retune.outcomes import BATTERY
from retune.recipe import Recipe
from retune.records import Pins
from retune.suites.battery import MAX_NEW_TOKENS
from retune.suites.harness import described_version


class Conditions(NamedTuple):
    """`engine` are the packages that compute, `device` is cuda or cpu, `template` the rendering of
    messages as tokens, and the rest are the settings of the same names. `task` is what lm-eval was
    asked, of its suites alone."""

    engine: str
    device: str
    template: str
    max_length: int
    train_on: str
    max_new_tokens: int
    task: str = ""

    @property
    def text(self) -> str:
        return json.dumps({name: value for name, value in self._asdict().items() if value != ""})


def conditions(recipe: Recipe, tokenizer: Path, pins: Pins) -> Callable[[str], Conditions]:
    """Return the conditions of today's measures by suite; `tokenizer` is the folder of the run's."""
    config = recipe.evaluation
    limits = {suite.name: suite.max_new_tokens for suite in config.probe_files}
    limits[BATTERY] = MAX_NEW_TOKENS
    common = Conditions(
        engine=", ".join(f"{name} {version}" for name, version in engine().items()),
        device="cuda" if compute_capabilities() else "cpu",
        template=rendering(tokenizer),
        max_length=recipe.model.max_length,
        train_on=recipe.training.train_on,
        max_new_tokens=config.max_new_tokens,
    )
    tasks = {
        task.name: described_version(task, version)
        for task, version in zip(config.tasks, pins.tasks, strict=True)
    }

    def of_suite(suite: str) -> Conditions:
        longest = limits.get(suite) or config.max_new_tokens
        return common._replace(max_new_tokens=longest, task=tasks.get(suite, ""))

    return of_suite


def changed(then: str, now: Conditions) -> str:
    """Return in words what is another by now than in the conditions `then`, as recorded; "": nothing."""
    if not then:
        return "they were not noted then"
    before = json.loads(then)
    return "; ".join(
        f"{name} was {before.get(name)}, is {value or None}"
        for name, value in now._asdict().items()
        if before.get(name, "") != value
    )
