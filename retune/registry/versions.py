"""The versions of a registered model, as records; what made one stands in its tags."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from retune.errors import RetuneError
from retune.original import Original
from retune.records import AnchorFile, Champion
from retune.tracking import client, exists

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"  # aliases
ANCHOR = "retune.anchor"  # of a version: the rows that its successors are judged by
BARRED = "retune.barred"  # of a version that no schedule promotes: why
NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")  # a recipe's


class RegistryError(RetuneError):
    """The registry has no such model, version or run, or does not allow what was asked for."""


class RegisteredVersion(BaseModel):
    """One version of the registered model `name`; `aliases` are those that name it now."""

    model_config = ConfigDict(frozen=True)

    name: str
    number: int
    run_id: str
    tags: dict[str, str]
    aliases: tuple[str, ...]
    created: datetime

    def __str__(self) -> str:
        return f"{self.name}/{self.number}"

    @property
    def barred(self) -> str | None:
        """Why no schedule promotes it again; None: it may."""
        return self.tags.get(BARRED)

    def as_champion(self) -> Champion | None:
        """Return what it takes to load it again; None for a version of before this was noted."""
        if "retune.adapter" not in self.tags:
            return None
        original, anchor = self.tags.get("retune.original"), self.tags.get(ANCHOR)
        return Champion(
            version=self.number,
            run_id=self.run_id,
            adapter=self.tags["retune.adapter"],
            base=self.tags["retune.base"],
            model_pin=self.tags["retune.pin.model"],
            original=Original.model_validate_json(original) if original else None,
            load_in_4bit=json.loads(self.tags["retune.load_in_4bit"]),
            anchor=AnchorFile.model_validate_json(anchor) if anchor else None,
        )


def registered(name: str) -> "RegisteredModel | None":
    """Return the registered model of a recipe, None if there is none."""
    from mlflow.exceptions import MlflowException

    if not NAME.fullmatch(name) or not exists():
        return None
    try:
        return client().get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def require(name: str) -> "RegisteredModel":
    """Return the registered model of a recipe. Raises RegistryError."""
    if model := registered(name):
        return model
    there = ", ".join(names()) or "none"
    raise RegistryError(
        f"no registered model {name!r:.110} (there: {there}); name the recipe whose runs made one"
    )


def names() -> list[str]:
    """Return the names of all recipes that have a registered model."""
    return sorted(_names())


def versions(name: str) -> list[RegisteredVersion]:
    """Return all versions, the oldest first; none if nothing is registered."""
    model = registered(name)
    return _every(model) if model else []


def version(name: str, number: int) -> RegisteredVersion:
    """Return one version. Raises RegistryError."""
    every = _every(require(name))
    if chosen := next((one for one in every if one.number == number), None):
        return chosen
    numbers = ", ".join(str(one.number) for one in every[-10:]) or "none"
    raise RegistryError(f"{name} has no version {number} (there: {numbers}); name one of these")


def aliased(name: str, alias: str) -> RegisteredVersion | None:
    """Return the version that `alias` names, None if there is none."""
    return next((one for one in versions(name) if alias in one.aliases), None)


def serving(name: str) -> RegisteredVersion | None:
    """Return the version that serves, None if none does."""
    return aliased(name, CHAMPION)


def champion(name: str) -> Champion | None:
    """Return the version of the recipe `name` that serves, None if none does.

    None, too, for one of before its tags said what made it. Only looks: it makes no store.
    """
    version = serving(name)
    return version.as_champion() if version else None


def _every(model: "RegisteredModel") -> list[RegisteredVersion]:
    return sorted(_versions(model), key=lambda one: one.number)


def _versions(model: "RegisteredModel") -> Iterator[RegisteredVersion]:
    # MLflow's filter language has no escapes; NAME has no quotes.
    aliases: dict[int, list[str]] = {}
    for alias, number in model.aliases.items():
        aliases.setdefault(int(number), []).append(alias)
    token = None
    while True:
        page = client().search_model_versions(f"name = '{model.name}'", page_token=token)
        for entry in page:
            yield _record(entry, tuple(sorted(aliases.get(int(entry.version), ()))))
        token = page.token
        if not token:
            return


def _record(entry: "ModelVersion", aliases: tuple[str, ...]) -> RegisteredVersion:
    return RegisteredVersion(
        name=entry.name,
        number=int(entry.version),
        run_id=entry.run_id or "",
        tags=dict(entry.tags),
        aliases=aliases,
        created=datetime.fromtimestamp(entry.creation_timestamp / 1000, UTC),
    )


def _names() -> Iterator[str]:
    if not exists():
        return
    token = None
    while True:
        page = client().search_registered_models(page_token=token)
        yield from (model.name for model in page if NAME.fullmatch(model.name))
        token = page.token
        if not token:
            return
