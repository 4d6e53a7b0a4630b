"""Under which conditions a model was measured: what must be equal for two measures to be compared.

Each line of outcomes has it, as the JSON of a record by name (`Conditions`), so that what was recorded
long ago is not taken for what would be seen now.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from retune.anchors import ENGINE, rendering
from retune.machine import compute_capabilities
from retune.outcomes import BATTERY
from retune.recipe import Recipe
from retune.suites.battery import MAX_NEW_TOKENS
from retune.version import installed


class Conditions(NamedTuple):
    """`engine` are the packages that compute, `device` is cuda or cpu, `template` the rendering of
    messages as tokens, and the rest are the settings of the same names."""

    engine: str
    device: str
    template: str
    max_length: int
    train_on: str
    max_new_tokens: int

    @property
    def text(self) -> str:
        return json.dumps(self._asdict())


def conditions(recipe: Recipe, tokenizer: Path) -> Callable[[str], Conditions]:
    """Return the conditions of today's measures by suite; `tokenizer` is the folder of the run's."""
    config = recipe.evaluation
    limits = {suite.name: suite.max_new_tokens for suite in config.probe_files}
    limits[BATTERY] = MAX_NEW_TOKENS
    common = Conditions(
        engine=", ".join(f"{name} {installed(name)}" for name in ENGINE),
        device="cuda" if compute_capabilities() else "cpu",
        template=rendering(tokenizer),
        max_length=recipe.model.max_length,
        train_on=recipe.training.train_on,
        max_new_tokens=config.max_new_tokens,
    )
    return lambda suite: common._replace(max_new_tokens=limits.get(suite) or config.max_new_tokens)


def changed(then: str, now: Conditions) -> str:
    """Return in words what is another by now than in the conditions `then`, as recorded; "": nothing."""
    if not then:
        return "they were not noted then"
    before = json.loads(then)
    return "; ".join(
        f"{name} was {before.get(name)}, is {value}"
        for name, value in now._asdict().items()
        if before.get(name) != value
    )
