"""Where llama.cpp is: put once into the user's cache by `infra.llamacpp.build`, found here.

There are two routes. `built`: the programs are compiled. `prebuilt`, where there is no compiler:
stand-ins for them do the same with the library in a wheel. Both have llama.cpp's own converter.
"""

import json
import os
import platform
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from retune.llamacpp.prebuilt import PACKAGE, SCRIPTS
from retune.workspace import cache_dir

VERSION = "0.94.0"  # of the PyPI wheel that carries the source tree
PROGRAMS = (
    "llama-quantize",
    "llama-imatrix",
    "llama-perplexity",
    "llama-completion",
    "llama-tokenize",
    "retune-tokenize",
)


class LlamaCppNotFound(RuntimeError):
    """There is no llama.cpp build for this machine; the message says how to make one."""


Route = Literal["built", "prebuilt"]


@dataclass(frozen=True)
class LlamaCpp:
    """One installation: its folder, and how the programs of which version came there.

    `version` is the wheel's that carries the source tree, or xllamacpp's.
    """

    root: Path
    version: str
    route: Route = "built"

    def __str__(self) -> str:
        return f"{self.version} {self.route}"

    def program(self, name: str) -> tuple[str | Path, ...]:
        """Return the command for one of PROGRAMS, to be followed by its arguments."""
        assert name in PROGRAMS, name
        if self.route == "built":
            return (self.root / "bin" / name,)
        # -P: else the script's folder would come first on the import path.
        return (sys.executable, "-P", SCRIPTS[name])


def build_folder(key: str) -> Path:
    """Return the folder of the build whose recipe hashes to `key`; a finished one exists."""
    return cache_dir() / f"llama.cpp-{VERSION}-{key}"


def prebuilt_folder(version: str) -> Path:
    """Return the folder of the prebuilt installation for an xllamacpp of that version."""
    return build_folder(f"{PACKAGE}-{version}")


def prebuilt_version() -> str | None:
    """Return the version of xllamacpp beside this Python, None if there is none."""
    try:
        return metadata.version(PACKAGE)
    except metadata.PackageNotFoundError:
        return None


def locate() -> LlamaCpp:
    """Return the installation to use: `$RETUNE_LLAMACPP`, else the best in the cache that fits here.

    A built one is better than a prebuilt one, then a newer one. Raises LlamaCppNotFound.
    """
    if named := os.environ.get("RETUNE_LLAMACPP"):
        root = Path(named)
        if not (root / "build.json").is_file():
            raise LlamaCppNotFound(
                f"RETUNE_LLAMACPP is {named}, which holds no build.json: name a folder made by"
                " `run make llamacpp`, or unset it"
            )
        if not _runs_here(_record(root)):
            raise LlamaCppNotFound(
                f"RETUNE_LLAMACPP is {named}, which is for another machine or another {PACKAGE} than"
                f" {prebuilt_version()}: run `make llamacpp`, or unset it"
            )
        return _installed(root)
    builds = [record.parent for record in cache_dir().glob(f"{build_folder('*').name}/build.json")]
    fitting = [root for root in builds if _runs_here(_record(root))]
    if not fitting:
        raise LlamaCppNotFound(
            f"llama.cpp {VERSION} is not installed for this machine (looked in {cache_dir()}):"
            " run `make llamacpp` (minutes, once)"
        )

    def rank(root: Path) -> tuple[bool, float]:
        return _record(root)["route"] == "built", (root / "build.json").stat().st_mtime

    return _installed(max(fitting, key=rank))


def _installed(root: Path) -> LlamaCpp:
    record = _record(root)
    if record["route"] == "prebuilt":
        return LlamaCpp(root, f"{PACKAGE} {record[PACKAGE]}", "prebuilt")
    return LlamaCpp(root, record["version"])


def _record(root: Path) -> dict[str, str]:
    # Builds from before there was another route don't name theirs.
    return {"route": "built"} | json.loads((root / "build.json").read_text())


def _runs_here(record: dict[str, str]) -> bool:
    if record.get(PACKAGE) not in (None, prebuilt_version()):
        return False
    return (record["platform"], record["machine"]) == (sys.platform, platform.machine())
