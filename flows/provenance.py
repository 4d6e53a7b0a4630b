"""Where a run comes from: what it takes to make it again on an empty machine, kept in MLflow.

    provenance/recipe.yaml            what was given
    provenance/recipe.resolved.yaml   every setting, revisions as the commits that they stood for
    provenance/pins.json              the versions of all inputs
    provenance/software.json          retune's version and commit, and the packages in the keys
    provenance/machine.json           CPU, memory, GPUs and driver

What a person searches by is also a tag of the run.
"""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml
from prefect.context import FlowRunContext

from flows.plan import Plan
from retune.machine import Machine, this_machine, user_name
from retune.made_with import is_module
from retune.pinning import resolved
from retune.recipe import Recipe
from retune.records import Pins
from retune.tracking import Run
from retune.version import Version, installed, this_version

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

FOLDER = "provenance"
COMMAND_LINE = "command line"  # what starts a run that no deployment does
# What starts a run without a person; the latter is a tag of the flow run, too.
SCHEDULE, TRIGGER = "schedule", "trigger"
# What runs are searched by. MLflow shows a run's note below its tags: all packages would hide it.
TAGGED = ("torch", "transformers", "trl", "peft", "unsloth", "bitsandbytes")


class Provenance(NamedTuple):
    """What made a run; `packages` are versions by the name they are imported by."""

    recipe: Recipe
    pins: Pins
    version: Version
    packages: dict[str, str]
    machine: Machine
    user: str
    started: str

    def log(self, run: Run) -> None:
        """Keep all of it as artifacts and tags of `run`, and the base model as its input."""
        run.log_texts(dict(self.files()), FOLDER)
        run.set_tags(dict(self.tags()))
        base = self.recipe.model.base
        run.log_base_model(base, self.pins.model, self.pins.commit(self.pins.model))

    def files(self) -> Iterator[tuple[str, str]]:
        """Yield each artifact's name and text."""
        yield "recipe.yaml", _yaml(given(self.recipe))
        yield (
            "recipe.resolved.yaml",
            _yaml(resolved(self.recipe, self.pins).model_dump(mode="json")),
        )
        yield "pins.json", self.pins.model_dump_json(indent=1)
        software = self.version._asdict() | {"packages": self.packages}
        yield "software.json", json.dumps(software, indent=1)
        yield "machine.json", json.dumps(self.machine._asdict(), indent=1)

    def tags(self) -> Iterator[tuple[str, str]]:
        """Yield what runs are searched by; the names that MLflow knows are its own."""
        yield "mlflow.user", self.user
        yield "mlflow.source.name", "retune"
        yield "mlflow.source.type", "LOCAL" if self.started == COMMAND_LINE else "JOB"
        yield "retune.started", self.started
        yield "retune.version", self.version.number
        if self.version.commit:
            yield "mlflow.source.git.commit", self.version.commit
            yield "retune.git.dirty", str(self.version.dirty).lower()
        for name, pin in self.pins.named().items():
            yield f"retune.pin.{name}", pin
        for name in [name for name in TAGGED if name in self.packages]:
            yield f"retune.package.{name}", self.packages[name]
        yield "retune.machine.cpu", self.machine.cpu
        yield "retune.machine.gpu", ", ".join(self.machine.gpus) or "none"
        yield "retune.machine.driver", self.machine.driver or "none"


def provenance(recipe: Recipe, pins: Pins, plan: Plan) -> Provenance:
    """Return where the flow run that is under way comes from."""
    return Provenance(
        recipe,
        pins,
        this_version(),
        packages(plan),
        this_machine(),
        user_name() or "unknown",
        started(),
    )


def given(recipe: Recipe) -> dict[str, Any]:
    """Return the settings that somebody wrote, without the defaults."""
    unwritten = None if recipe.note else {"note"}  # a flow's parameters all have values
    return _without_empty(recipe.model_dump(mode="json", exclude_unset=True, exclude=unwritten))


def packages(plan: Plan) -> dict[str, str]:
    """Return this machine's versions of the packages that are in the keys of the stages."""
    names = {name for step in plan.steps() for name in step.key["made with"] if not is_module(name)}
    return {name: installed(name) for name in sorted(names)}


def _without_empty(settings: dict[str, Any]) -> dict[str, Any]:
    inner = {
        key: _without_empty(value) if isinstance(value, dict) else value
        for key, value in settings.items()
    }
    return {key: value for key, value in inner.items() if value != {}}


def _yaml(settings: dict[str, Any]) -> str:
    return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)


def started() -> str:
    """Say who started the flow run: a schedule, a trigger, somebody on Prefect's pages, or a command
    line."""
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    if run is None or run.deployment_id is None:
        return COMMAND_LINE
    if cause := cause_of(run):
        return cause
    by = run.created_by.display_value if run.created_by else None
    return f"deployment, by {by}" if by else "deployment, by hand"


def cause_of(run: "FlowRun") -> str | None:
    """Return what started a flow run without a person, None if a person did."""
    if run.auto_scheduled:
        return SCHEDULE
    return TRIGGER if TRIGGER in run.tags else None
