"""Which version serves: promotions and rollbacks, one at a time and each in the log.

The log is written first and the aliases follow it. Whoever died between the two leaves the tag
`retune.promotion.settled` behind, and the next one to hold the lock ends what was begun.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from retune.files import digest
from retune.registry.lock import Held, locked
from retune.registry.log import PREFIX, REASON_LIMIT, Kind, PromotionEntry, entries
from retune.registry.versions import (
    BARRED,
    CHALLENGER,
    CHAMPION,
    PREVIOUS,
    RegisteredVersion,
    RegistryError,
    require,
    version,
    versions,
)
from retune.tracking import client

if TYPE_CHECKING:
    from mlflow.entities.model_registry import RegisteredModel

SETTLED = f"{PREFIX}settled"  # the number of the last entry that aliases and bars follow
MOVED = "its alias `champion` was set in MLflow"  # by hand, or by an earlier retune


class StaleEvidence(RegistryError):
    """Another version serves than the one that the evidence compares with."""


class Barred(RegistryError):
    """The version was rolled back, so nothing promotes it unless somebody says so."""


def promote(
    name: str,
    number: int,
    by: str,
    reason: str,
    evidence: Mapping[str, Any],
    expected_champion: int | None,
    *,
    unbar: bool = False,
) -> PromotionEntry:
    """Let version `number` of the recipe `name` serve, and return the entry of the log.

    `expected_champion` is the version that the decision was made against, None if none served.
    `unbar` lifts the bar of a version that was rolled back. Raises StaleEvidence if another version
    serves by now, Barred, or RegistryError, with nothing changed.
    """
    with changing(name) as model:
        chosen = version(name, number)
        model.require_serving(expected_champion, chosen)
        if model.serving == number:
            raise RegistryError(f"{chosen} serves already; there is nothing to promote")
        if not unbar:
            _require_unbarred(chosen)
        return model.add("promote", chosen, number, by, reason, evidence)


def rollback(name: str, to: int | None, by: str, reason: str) -> PromotionEntry:
    """Let version `to` of the recipe `name` serve again, and bar the one that is left.

    None: the one that served before it (the alias `previous`). Raises Barred or RegistryError, with
    nothing changed.
    """
    with changing(name) as model:
        chosen = target(model.name, model.log, to)
        return model.add("rollback", chosen, chosen.number, by, reason, {})


def target(name: str, log: Sequence[PromotionEntry], to: int | None) -> RegisteredVersion:
    """Return the version that a rollback goes to. Raises Barred or RegistryError if it cannot."""
    serving = serving_of(log)
    if serving is None:
        raise RegistryError(f"no version of {name} serves: there is nothing to roll back")
    if to is None:
        previous = _predecessor(log, versions(name))
        if previous is None:
            raise RegistryError(
                f"no version of {name} that is not barred served before {name}/{serving}; name one with "
                f"--to (`retune history {name}` lists them)"
            )
        return previous
    chosen = version(name, to)
    if to == serving:
        raise RegistryError(f"{chosen} serves already; name another version with --to")
    _require_unbarred(chosen)
    return chosen


def _require_unbarred(chosen: RegisteredVersion) -> None:
    if chosen.barred is not None:
        raise Barred(
            f"{chosen} is barred: {chosen.barred}. To let it serve all the same: "
            f"`retune promote {chosen.name} {chosen.number} --unbar`"
        )


def serving_of(log: Sequence[PromotionEntry]) -> int | None:
    """Return the version that serves by the log."""
    return log[-1].serving if log else None


class LockedModel:
    """A registered model under its lock, with its log."""

    def __init__(self, name: str, held: Held) -> None:
        self.name = name
        self._held = held
        self.log = _settled(require(name), held)

    @property
    def serving(self) -> int | None:
        return serving_of(self.log)

    def require_serving(self, expected: int | None, candidate: RegisteredVersion) -> None:
        """Raise StaleEvidence if another version serves than was expected."""
        if self.serving == expected:
            return
        raise StaleEvidence(_compared(candidate, expected, self.serving))

    def add(
        self,
        kind: Kind,
        chosen: RegisteredVersion,
        serving: int | None,
        by: str,
        reason: str,
        evidence: Mapping[str, Any],
    ) -> PromotionEntry:
        """Write an entry, and let aliases and bars follow it."""
        entry = _entry(self.log, kind, chosen, serving, by, reason, evidence)
        self.log = _written(self.name, self.log, entry, self._held)
        return entry


@contextmanager
def changing(name: str) -> Iterator[LockedModel]:
    """Hold the registered model `name` alone. Raises RegistryError."""
    require(name)
    with locked(name) as held:
        yield LockedModel(name, held)


def _settled(model: "RegisteredModel", held: Held) -> list[PromotionEntry]:
    """Return the log, once aliases follow it and it follows those that were set in MLflow."""
    log = entries(model)
    if len(log) > int(model.tags.get(SETTLED, "0")):
        _follow(model.name, log, held)
        return log
    alias = model.aliases.get(CHAMPION)
    if alias is not None and int(alias) != serving_of(log):
        chosen = version(model.name, int(alias))
        entry = _entry(log, "promote", chosen, chosen.number, "MLflow", MOVED, {})
        log = _written(model.name, log, entry, held)
    return log


def _entry(
    log: Sequence[PromotionEntry],
    kind: Kind,
    chosen: RegisteredVersion,
    serving: int | None,
    by: str,
    reason: str,
    evidence: Mapping[str, Any],
) -> PromotionEntry:
    return PromotionEntry(
        number=len(log) + 1,
        kind=kind,
        at=datetime.now(UTC),
        by=by[:200],
        version=chosen.number,
        serving=serving,
        former=serving_of(log),
        run_id=chosen.run_id,
        reason=reason[:REASON_LIMIT],
        evidence=digest(evidence) if evidence else "",
    )


def _written(
    name: str, log: Sequence[PromotionEntry], entry: PromotionEntry, held: Held
) -> list[PromotionEntry]:
    """Write an entry, let aliases and bars follow it, and return the log with it."""
    held.require()
    client().set_registered_model_tag(name, entry.key, entry.model_dump_json())
    written = [*log, entry]
    _follow(name, written, held)
    return written


def _follow(name: str, log: Sequence[PromotionEntry], held: Held) -> None:
    """Set bars and aliases as the log says; doing it twice changes nothing."""
    last = log[-1]
    held.require()
    if last.kind == "rollback" and last.former is not None:
        client().set_model_version_tag(name, str(last.former), BARRED, last.reason or "rolled back")
    if last.kind == "promote" and version(name, last.version).barred is not None:
        client().delete_model_version_tag(name, str(last.version), BARRED)
    every = versions(name)
    for one in every:
        if one.barred is not None and CHALLENGER in one.aliases:  # nobody wants it
            client().delete_registered_model_alias(name, CHALLENGER)
    numbers = {one.number for one in every}
    previous = _predecessor(log, every)
    held.require()
    if last.serving in numbers:
        client().set_registered_model_alias(name, CHAMPION, str(last.serving))
    if previous:
        client().set_registered_model_alias(name, PREVIOUS, str(previous.number))
    else:
        with suppress(_missing()):
            client().delete_registered_model_alias(name, PREVIOUS)
    client().set_registered_model_tag(name, SETTLED, str(last.number))


def _predecessor(
    log: Sequence[PromotionEntry], every: Sequence[RegisteredVersion]
) -> RegisteredVersion | None:
    """Return what served last before the version that serves, of those that are there and not barred."""
    allowed = {one.number: one for one in every if one.barred is None}
    served = [entry.serving for entry in reversed(log)] + [entry.former for entry in log[:1]]
    return next(
        (allowed[number] for number in served if number in allowed and number != log[-1].serving),
        None,
    )


def _missing() -> type[Exception]:
    from mlflow.exceptions import MlflowException

    return MlflowException


def _compared(candidate: RegisteredVersion, expected: int | None, serving: int | None) -> str:
    """Return the sentence that evidence is stale."""
    return (
        f"{candidate} was compared with {_words(candidate.name, expected)}, and by now "
        f"{_words(candidate.name, serving)} serves: run the recipe again, which compares it with that "
        f"one (what is made is reused)"
    )


def _words(name: str, number: int | None) -> str:
    return f"{name}/{number}" if number else "no version (the base alone)"
