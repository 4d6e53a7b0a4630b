"""What the child of each stage imports: its heavy libraries, its modules, and their CPU seconds.

    python -m benchmarks.imports run recipe.yaml    # any command of `retune`

The command runs once without a fork server: each child imports for itself, as the first one of a
machine does. BUDGET is what each may import of HEAVY; tests hold it with real runs.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks.import_watch import sitecustomize

PACKAGES = ("flows", "tasks", "retune")
ROOT = Path(__file__).resolve().parents[1]
# Libraries that take a core a quarter of a second or more, by the names of their packages.
HEAVY = frozenset(
    [
        "accelerate",
        "bitsandbytes",
        "datasets",
        "great_expectations",
        "matplotlib",
        "mlflow",
        "pandas",
        "peft",
        "polars",
        "prefect",
        "pyarrow",
        "scipy",
        "sklearn",
        "torch",
        "transformers",
        "trl",
        "unsloth",
    ]
)
# What transformers imports by itself, whoever reads a tokenizer: each of these processes has them.
MODEL = frozenset(["accelerate", "pandas", "pyarrow", "scipy", "sklearn", "torch", "transformers"])
TUNED = MODEL | {"bitsandbytes", "peft"}
TRAINED = TUNED | {"datasets", "polars", "trl"}
# Of a dense model; of a mixture of experts conform asks PEFT which layers it takes for experts.
BUDGET: Mapping[str, frozenset[str]] = {
    "retune/llamacpp/converter.py": MODEL,
    "tasks/conform/base_child.py": MODEL,
    "tasks/conform/gguf_child.py": MODEL,
    "tasks/evaluate/child.py": TUNED,
    "tasks/fetch/child.py": frozenset({"pandas", "pyarrow"}),
    "tasks/format/child.py": MODEL | {"matplotlib", "polars"},
    "tasks/merge/child.py": TUNED,
    "tasks/merge/trained_child.py": TUNED,
    "tasks/quantize/child.py": MODEL | {"polars"},
    "tasks/rehearse/child.py": MODEL,
    "tasks/select/child.py": TUNED,
    "tasks/train/trl_child.py": TRAINED,
    "tasks/train/unsloth_child.py": TRAINED | {"unsloth"},
    "tasks/validate/tokens_child.py": MODEL,
}


class Imports(NamedTuple):
    """What one child imported, by `benchmarks/import_watch`."""

    script: str
    forked: bool
    heavy: frozenset[str]
    modules: int
    seconds: float

    @property
    def over(self) -> frozenset[str]:
        """What of it its stage's budget does not have."""
        return self.heavy - BUDGET.get(self.script, frozenset())


def watched(folder: Path, alone: bool) -> dict[str, str]:
    """Return the variables with which a command's processes leave notes in `folder`; children that are
    to be `alone` import for themselves."""
    shutil.copy(sitecustomize.__file__, folder)
    if alone:
        (folder / sitecustomize.NO_FORKS).touch()
    # By it tests let the program `retune` be this checkout's.
    ours = os.environ.get("PYTHONPATH", "")
    return {"PYTHONPATH": os.pathsep.join(filter(None, (str(folder), str(ROOT), ours)))}


def read(folder: Path) -> list[Imports]:
    """Return what the children of stages noted."""
    notes = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    return [of_child(one) for one in notes if child_of(one["script"])]


def child_of(script: str) -> str:
    """Return a script's path from the project's root, "" if it is none of its children: the packages
    may lie elsewhere than these benchmarks."""
    parts = Path(script).parts
    at = next((n for n, part in enumerate(parts) if part in PACKAGES), len(parts))
    name = Path(*parts[at:])
    is_child = name.stem.endswith("child") or name.stem == "converter"
    return str(name) if is_child else ""


def of_child(notes: Mapping) -> Imports:
    # A forked child's packages are those that the server has not; what it asks for counts as well.
    heavy = HEAVY.intersection(notes["packages"]) | HEAVY.intersection(notes["asked"])
    return Imports(
        child_of(notes["script"]), notes["forked"], heavy, notes["modules"], notes["seconds"]
    )


def table(children: Iterable[Imports]) -> str:
    """Return a line for each script: how often it ran, the median of its imports, and its libraries."""
    lines = ["| child | runs | CPU s | modules | heavy libraries |", "|---|---:|---:|---:|---|"]
    by_script: dict[str, list[Imports]] = {}
    for one in children:
        by_script.setdefault(one.script, []).append(one)
    for script, runs in sorted(by_script.items()):
        seconds, modules = (median(getattr(r, n) for r in runs) for n in ("seconds", "modules"))
        heavy = frozenset().union(*(run.heavy for run in runs))
        lines.append(
            f"| `{script}` | {len(runs)} | {seconds:.1f} | {modules:,.0f} | {' '.join(sorted(heavy))} |"
        )
    return "\n".join(lines)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="retune-imports-") as folder:
        command = [sys.executable, "-m", "flows.cli", *sys.argv[1:]]
        subprocess.run(command, env=os.environ | watched(Path(folder), alone=True), check=True)
        print(table(read(Path(folder))))


if __name__ == "__main__":
    main()
