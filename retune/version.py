"""Which retune this is: its version, and the commit of a checkout."""

import subprocess
from functools import cache
from importlib import metadata
from typing import NamedTuple

from retune.environment import ROOT


class Version(NamedTuple):
    """The version, and of a checkout the commit and whether files differ from it (`dirty`)."""

    number: str
    commit: str | None = None
    dirty: bool = False

    def __str__(self) -> str:
        """`0.1.0`, in a checkout `0.1.0 (commit 1a2b3c4d5e6f)`, with `, changed` if it was edited."""
        if not self.commit:
            return self.number
        return f"{self.number} (commit {self.commit[:12]}{', changed' if self.dirty else ''})"


@cache
def this_version() -> Version:
    """Return the version of the code that runs; the commit is None where there is none to know."""
    try:
        number = metadata.version("retune")
    except metadata.PackageNotFoundError:
        number = "not installed"
    commit = _git("rev-parse", "HEAD")
    return Version(number, commit or None, bool(commit and _git("status", "--porcelain")))


@cache
def installed(package: str) -> str:
    """Return the version of a package by the name it is imported by, `absent` without it.

    It is what this process found when it first asked.
    """
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"


def public(version: str) -> str:
    """Return a version without what says how this machine's copy was built: `2.13.0` of `2.13.0+cpu`.

    The same work is planned on a machine with a GPU and on one without.
    """
    return version.partition("+")[0]


def _git(*arguments: str) -> str:
    """Return what git says of the folder that this code lies in; nothing where there is no checkout."""
    if not (ROOT / ".git").exists():  # a wheel may lie below somebody else's repository
        return ""
    command = ["git", "-C", str(ROOT), *arguments]
    try:
        completed = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return completed.stdout.strip()
