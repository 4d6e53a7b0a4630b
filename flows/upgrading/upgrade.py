"""`retune upgrade --check NEW.lock`: what the packages of a new lock change in what retune makes."""

import hashlib
import platform
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from flows.upgrading.bisection import culprits
from flows.upgrading.comparison import Compared, compared
from flows.upgrading.environments import (
    EnvironmentFailed,
    environment,
    folder,
    remove_old,
    site_packages,
    together,
)
from flows.upgrading.locks import OTHERS, Replacement, changes, installed, wanted
from flows.upgrading.probes import Probed, make_material, probe
from retune.environment import ROOT
from retune.home import mark
from retune.version import this_version

RECORD = "infra/upgrade.json"  # of the lock that the project has


class Upgrade(BaseModel):
    """What a check of a lock found. It is this file that lets a lock rise.

    `locks` are the SHA-256 of the lock and of those beside it. `different` is accepted only with
    `accepted`, the reason why it is right.
    """

    version: int = 1
    locks: dict[str, str]
    outcome: Literal["same", "different"]
    accepted: str = ""
    changes: list[str]
    culprits: list[str] = []
    compared: list[Compared]
    checked: datetime
    retune: str
    machine: str

    @property
    def may_rise(self) -> bool:
        """Whether the lock may take the old one's place."""
        return self.outcome == "same" or bool(self.accepted)


def check(lock: Path, accepted: str = "") -> Upgrade:
    """Run the probe in the environment that runs and in that of `lock`, and compare.

    Where they differ, the packages that make the difference are named. Raises LockError,
    EnvironmentFailed and ProbeFailed.
    """
    pins = wanted(lock)
    changed = changes(installed([site_packages()]), pins)
    remove_old()
    folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="probe-", dir=folder()) as scratch:
        trials = Trials(mark(Path(scratch)), lambda wanted: environment(wanted, pins))
        old, new = trials.probe([]), trials.probe(changed)
        things = compared(old, new)
        same = all(thing.same for thing in things)
        found = [] if same else _culprits(changed, trials)
    return Upgrade(
        locks=hashes(lock),
        outcome="same" if same else "different",
        accepted=accepted,
        changes=list(map(str, changed)),
        culprits=found,
        compared=things,
        checked=datetime.now(UTC).replace(microsecond=0),
        retune=str(this_version()),
        machine=f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    )


class Trials:
    """Probes of environments, each run once; `environment` makes one and returns its Python."""

    def __init__(self, scratch: Path, environment: Callable[[list[Replacement]], Path]) -> None:
        self._scratch, self._environment = scratch, environment
        self._probes: dict[frozenset[Replacement], Probed] = {}
        self._material = scratch / "material"

    def probe(self, wanted: Sequence[Replacement]) -> Probed:
        """Return what the environment with these changes makes of the probe."""
        key = frozenset(wanted)
        if key not in self._probes:
            number = len(self._probes)
            if not number:
                make_material(self._material)
            names = ", ".join(change.name for change in wanted) or "as it is"
            print(
                f"Running the probe in the environment {names if len(wanted) < 6 else len(wanted)}"
            )
            python = self._environment(list(wanted))
            self._probes[key] = probe(python, self._material, self._scratch / f"home-{number}")
        return self._probes[key]

    def python(self, wanted: Sequence[Replacement]) -> Path:
        """Return the Python of the environment with these changes."""
        return self._environment(list(wanted))

    def differ(self, wanted: Sequence[Replacement]) -> bool:
        """Tell whether these changes make another thing of the probe than none do."""
        try:
            new = self.probe(wanted)
        except EnvironmentFailed:
            return True
        return not all(thing.same for thing in compared(self.probe([]), new))


def _culprits(changed: list[Replacement], trials: Trials) -> list[str]:
    """Return the packages that make the difference, those that go together in one text."""
    packages = next(trials.python(changed).parents[1].glob("lib/python*/site-packages"))
    groups = together(changed, packages)
    found = culprits(groups, lambda some: trials.differ([one for part in some for one in part]))
    return [" with ".join(map(str, group)) for group in found]


def hashes(lock: Path) -> dict[str, str]:
    """Return the SHA-256 of a lock, as requirements.lock, and of the project's others beside it."""
    files = {"requirements.lock": lock} | {name: ROOT / name for name in OTHERS}
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in files.items()
        if path.is_file()
    }
