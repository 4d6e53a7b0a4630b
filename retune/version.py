"""Which retune this is: its version, and the commit of a checkout."""

import subprocess
from importlib import metadata

from retune.environment import ROOT


def version() -> str:
    """Return `0.1.0`, in a checkout `0.1.0 (commit 1a2b3c4d5e6f)`, with `, changed` if it was edited."""
    try:
        number = metadata.version("retune")
    except metadata.PackageNotFoundError:
        number = "not installed"
    commit = _commit()
    return f"{number} (commit {commit})" if commit else number


def _commit() -> str | None:
    """Return the commit of the folder that this code lies in, None where there is none to know."""
    if not (ROOT / ".git").exists():  # a wheel may lie below somebody else's repository
        return None
    # Tags are left out: a person compares commits.
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=, changed", "--abbrev=12"]
    try:
        done = subprocess.run(
            [*command, "--exclude=*"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
