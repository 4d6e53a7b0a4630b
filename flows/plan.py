"""The plan of a run: for every stage, what determines its output and where that will lie.

Knowing only the recipe and the pinned inputs, it says which outputs exist already. The flow gives
each task its step; `retune plan` prints them. A key is what `tasks/<stage>/key.py` says, and what
the stage is made with; no limit of a gate is in any.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from retune.files import digest
from retune.made_with import made_with
from retune.outputs import Output, Step
from retune.recipe import Recipe
from retune.records import Pins
from tasks.anchor import key as anchoring
from tasks.conform import key as conforming
from tasks.evaluate import key as evaluating
from tasks.fetch import key as fetching
from tasks.format import key as formatting
from tasks.judge import key as judging
from tasks.merge import key as merging
from tasks.publish import key as publishing
from tasks.quantize import key as quantizing
from tasks.rehearse import key as rehearsing
from tasks.select import key as selecting
from tasks.train import key as training
from tasks.validate import key as validating

# The room of a stage, where that has another name.
ROOMS = {
    "parity": "conform",
    "screen": "validate",
    "champion": "evaluate",
    "convert": "quantize",
    "calibrate": "quantize",
}


class Plan(BaseModel):
    """One step per stage; `quantize` has one per method, in the recipe's order."""

    model_config = ConfigDict(frozen=True)

    conform: Step
    rehearse: Step | None  # unless the base brings code
    fetch: Step
    screen: Step
    validation: Step
    formatting: Step
    parity: Step | None  # if there will be GGUF files
    train: Step
    select: Step | None  # if the adapter may be put on other weights than it was trained on
    evaluate: Step
    champion: Step | None  # if there is one that serves, and the candidate is another
    anchor: Step | None  # as the champion
    judge: Step | None  # if the recipe has one, and the candidate is not what serves
    merge: Step | None  # and what follows from it: none if the recipe wants the adapter only
    convert: Step | None
    calibrate: Step | None
    quantize: tuple[Step, ...]
    publish: Step | None  # if every quant ships, see `publish_step`

    def steps(self) -> list[Step]:
        """Return every step in the order of the line."""
        data = [self.fetch, self.screen, self.validation, self.formatting]
        model = [self.parity, self.train, self.select, self.evaluate, self.champion, self.anchor]
        model += [self.judge, self.merge]
        files = [self.convert, self.calibrate, *self.quantize, self.publish]
        base = [self.conform, self.rehearse]
        return [step for step in (*base, *data, *model, *files) if step]

    def of(self, steps: Mapping[str, Step]) -> "Plan":
        """Return the plan with other steps in the places of those that are named."""

        def other(step: Step | None) -> Step | None:
            return steps.get(step.name, step) if step else None

        single = {
            name: other(getattr(self, name))
            for name in type(self).model_fields
            if name != "quantize"
        }
        return self.model_copy(update=single | {"quantize": tuple(map(other, self.quantize))})

    def digest(self, recipe: Recipe) -> str:
        """Return what identifies a run of `recipe` with all its settings by this plan."""
        return digest([_settings(recipe), *(step.fingerprint for step in self.steps())])

    def inputs(self, recipe: Recipe, pins: Pins, noise: Mapping[str, float]) -> str:
        """Return what identifies what a run of `recipe` starts from, whichever version serves: dataset,
        base, settings, code, and the `noise` that its margins are multiples of."""
        compared = (self.champion, self.anchor, self.judge)
        of_champion = [step.fingerprint for step in compared if step]
        steps = [one.fingerprint for one in self.steps() if one.fingerprint not in of_champion]
        return digest([_settings(recipe), *steps, pins.judge, pins.judge_labels, dict(noise)])


def make_plan(recipe: Recipe, pins: Pins) -> Plan:
    """Return the steps of this recipe on these inputs.

    Raises LlamaCppNotFound: better now than when the GPU's work is done.
    """
    conform = _step("conform", conforming.conform(recipe, pins))
    fetch = _step("fetch", fetching.key(recipe, pins))
    screen = _step("screen", validating.screen(recipe, pins, fetch))
    validation = _step("validate", validating.validate(recipe, pins, screen))
    formatted = _step("format", formatting.key(recipe, pins, validation))
    train = _step("train", training.key(recipe, pins, formatted))
    select = _step("select", selecting.key(recipe, pins, train)) if recipe.selects else None
    evaluate = _step("evaluate", evaluating.key(recipe, pins, train, select))
    serves = pins.champion is not None and pins.champion.adapter == train.fingerprint
    champion = (
        _step("champion", evaluating.champion(recipe, pins, pins.champion, formatted))
        if pins.champion and not serves  # else it is the candidate
        else None
    )
    anchor = (
        _step("anchor", anchoring.key(recipe, pins.champion, train, select, formatted))
        if pins.champion and champion
        else None
    )
    judge = (
        _step("judge", judging.key(recipe, pins, evaluate, champion))
        if recipe.evaluation.judge.enabled and not serves  # nothing is decided, and a judge costs
        else None
    )
    parity = merge = convert = calibrate = None
    quants: tuple[Step, ...] = ()
    if recipe.makes_gguf:
        parity = _step("parity", conforming.parity(recipe, conform, formatted))
        merge = _step("merge", merging.key(recipe, train, select))
        convert = _step("convert", quantizing.convert(recipe, merge))
        calibrate = _step("calibrate", quantizing.calibrate(recipe, convert))
        quants = tuple(
            _step("quantize", quantizing.quantize(recipe, convert, calibrate, method))
            for method in recipe.quantization.methods
        )
    parts = [evaluate, *([merge, *quants] if merge else [train])]
    return Plan(
        conform=conform,
        rehearse=None
        if recipe.model.trust_remote_code
        else _step("rehearse", rehearsing.key(recipe, conform)),
        fetch=fetch,
        screen=screen,
        validation=validation,
        formatting=formatted,
        parity=parity,
        train=train,
        select=select,
        evaluate=evaluate,
        champion=champion,
        anchor=anchor,
        judge=judge,
        merge=merge,
        convert=convert,
        calibrate=calibrate if recipe.quantization.calibrates else None,
        quantize=quants,
        publish=_step("publish", publishing.key(recipe, parts))
        if recipe.publishing.enabled
        else None,
    )


def _settings(recipe: Recipe) -> dict[str, Any]:
    """Return the settings of a recipe, but for those of when and where it runs and its note."""
    return recipe.model_dump(exclude={"schedule", "infra", "note"})


def publish_step(recipe: Recipe, parts: Sequence[Output]) -> Step:
    """Return the step that publishes what ships: `parts`, in the order of the line."""
    return _step("publish", publishing.key(recipe, [part.step for part in parts]))


def _step(stage: str, settings: dict[str, Any]) -> Step:
    room = ROOMS.get(stage, stage)
    return Step(stage=stage, key=settings | {"made with": made_with(stage, f"tasks.{room}.task")})
