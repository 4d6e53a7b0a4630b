"""Locks of packages: what one holds, and what an environment has otherwise than a lock says."""

import re
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from retune.environment import ROOT
from retune.errors import RetuneError

# Beside requirements.lock; together they are an environment.
OTHERS = ("infra/cuda.lock", "infra/no-dependencies.txt", "infra/torch.txt")
UNLOCKED = {"pip", "retune"}  # what makes an environment, and what is no package of others
ENTRY = re.compile(r"^[A-Za-z0-9].*\n?(?:[ \t]+.*\n?)*", re.MULTILINE)


class LockError(RetuneError):
    """A file that is no lock."""


class Pin(NamedTuple):
    """A package at a version: its entry in the lock, with the hashes that it must have."""

    name: str
    version: str
    entry: str

    @property
    def is_hashed(self) -> bool:
        return "--hash=" in self.entry


class Replacement(NamedTuple):
    """A package that is another version; None where it is not installed."""

    name: str
    old: str | None
    new: str | None

    def __str__(self) -> str:
        return f"{self.name} {self.old or 'absent'} → {self.new or 'absent'}"


def pins(lock: Path) -> dict[str, Pin]:
    """Return what a lock installs on this machine, by name. Raises LockError."""
    try:
        text = lock.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise LockError(f"{lock} is no lock: it is not a text") from None
    found = [_pin(entry, lock) for entry in ENTRY.findall(re.sub(r"(?m)^#.*\n", "", text))]
    if not found:
        raise LockError(
            f"{lock} is no lock: it has no line such as `numpy==2.3.0 --hash=…` (`make lock` makes one)"
        )
    return {pin.name: pin for pin in found if pin}


def _pin(entry: str, lock: Path) -> Pin | None:
    """Return the pin of an entry, None if it is for other machines."""
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        requirement = Requirement(entry.partition("--hash")[0].replace("\\", " ").strip())
    except InvalidRequirement as error:
        raise LockError(f"{lock} is no lock: {entry.splitlines()[0]!r}: {error}") from None
    versions = [one.version for one in requirement.specifier if one.operator == "=="]
    if len(versions) != 1:
        raise LockError(f"{lock} is no lock: {requirement} has no exact version")
    if requirement.marker and not requirement.marker.evaluate():
        return None
    return Pin(normal(requirement.name), versions[0], entry)


def wanted(lock: Path) -> dict[str, Pin]:
    """Return all that an environment of the new `lock` holds: of the others what it does not name.

    Raises LockError.
    """
    others: dict[str, Pin] = {}
    for name in OTHERS:
        if (ROOT / name).is_file() and (name != "infra/cuda.lock" or _is_cuda()):
            others |= pins(ROOT / name)
    return others | pins(lock)


def _is_cuda() -> bool:
    """Tell whether this environment's torch asks for the packages of CUDA, as infra/install.sh does."""
    names = metadata.requires("torch") or []
    return any(name.startswith(("nvidia-", "cuda-")) for name in names)


def installed(folders: Iterable[Path]) -> dict[str, str]:
    """Return the versions of what is installed in these folders, by name."""
    found = metadata.distributions(path=[str(folder) for folder in folders])
    return {normal(one.metadata["Name"]): one.version for one in found if one.metadata["Name"]}


def changes(old: Mapping[str, str], new: Mapping[str, Pin]) -> list[Replacement]:
    """Return what an environment with the versions `old` lacks to be `new`, by name."""
    versions = {name: pin.version for name, pin in new.items()}
    both = {**old, **versions}.keys() - UNLOCKED
    listed = [Replacement(name, old.get(name), versions.get(name)) for name in sorted(both)]
    # A machine's own build of a version (torch 2.13.0+cpu) is that version.
    return [one for one in listed if (one.old or "").partition("+")[0] != (one.new or "")]


def normal(name: str) -> str:
    """Return a package's name as all spell it."""
    return re.sub(r"[-_.]+", "-", name).lower()
