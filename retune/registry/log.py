"""The promotion log: who or what decided which version serves, when, and by what evidence.

Aliases keep no history, so every decision is a tag of the registered model, `retune.promotion.000001`
and so on, which is written once and never changed.
"""

import re
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from retune.registry.versions import RegistryError, require

if TYPE_CHECKING:
    from mlflow.entities.model_registry import RegisteredModel

PREFIX = "retune.promotion."
REASON_LIMIT = 1000  # characters; a tag in PostgreSQL holds 5,000 in all
Kind = Literal["promote", "rollback", "approve", "reject"]
HEADS = ("", "when (UTC)", "what", "version", "instead of", "by", "why")


class PromotionEntry(BaseModel):
    """One entry of the log.

    `version` is what was decided about: promoted, gone back to, approved or rejected. `serving` is
    the version that serves from then on, `former` the one that served before, None if none did.
    `evidence` is the digest of the evidence, "" if there was none; `run_id` the version's run.
    """

    model_config = ConfigDict(frozen=True)

    number: int
    kind: Kind
    at: AwareDatetime
    by: str
    version: int
    serving: int | None
    former: int | None
    run_id: str
    reason: str
    evidence: str = ""

    @property
    def key(self) -> str:
        """The tag that holds it."""
        return f"{PREFIX}{self.number:06d}"

    @property
    def instead(self) -> str:
        """` instead of version 3`, "" if none served before."""
        return f" instead of version {self.former}" if self.former else ""

    def cells(self) -> tuple[str, ...]:
        """The entry as a line of a table below HEADS; texts are as they were given."""
        when = f"{self.at:%Y-%m-%d %H:%M}"
        former = str(self.former or "")
        return (
            *(str(self.number), when, self.kind, str(self.version), former),
            *(self.by, self.reason),
        )


def history(name: str) -> list[PromotionEntry]:
    """Return the log of the recipe `name`, the oldest first. Raises RegistryError."""
    return entries(require(name))


def entries(model: "RegisteredModel") -> list[PromotionEntry]:
    """Return the log of a registered model. Raises RegistryError where an entry is missing or damaged."""
    keys = sorted(key for key in model.tags if re.fullmatch(re.escape(PREFIX) + r"\d{6}", key))
    log = [_entry(model.name, key, model.tags[key]) for key in keys]
    for number, entry in enumerate(log, start=1):
        if entry.number != number:
            raise RegistryError(
                f"the promotion log of {model.name} has no entry {number}: the tag "
                f"{PREFIX}{number:06d} of the registered model was removed; put it back"
            )
    return log


def who_served(log: Sequence[PromotionEntry], at: datetime) -> PromotionEntry | None:
    """Return the entry by which the version that served at `at` came into service, if one did."""
    entry = None
    for candidate in log:
        if candidate.at > at:
            break
        if candidate.kind in ("promote", "rollback"):
            entry = candidate
    return entry


def _entry(name: str, key: str, text: str) -> PromotionEntry:
    try:
        entry = PromotionEntry.model_validate_json(text)
    except ValidationError:
        entry = None
    if entry is None or entry.key != key:
        raise RegistryError(
            f"the promotion log of {name} is damaged: the tag {key} of the registered model was changed "
            f"by hand; put back what it was"
        )
    return entry
