"""The house rules that a machine can hold."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {
    "flows": {"flows", "tasks", "expectations", "retune"},
    "tasks": {"tasks", "expectations", "retune"},
    "expectations": {"expectations", "retune"},
    "retune": {"retune"},
    "infra": {"infra", "retune"},
    "demo": {"demo", "retune"},
}


def imports(path: Path) -> set[str]:
    """Return the full names of the modules that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


SOURCES = [path for folder in ALLOWED for path in sorted((ROOT / folder).rglob("*.py"))]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    folder = path.relative_to(ROOT).parts[0]
    ours = {name for name in imports(path) if name.partition(".")[0] in ALLOWED}
    assert {name.partition(".")[0] for name in ours} <= ALLOWED[folder]
    if folder in ("retune", "expectations"):
        assert not any(name.partition(".")[0] == "prefect" for name in imports(path))
    if folder == "tasks":
        stage = path.relative_to(ROOT).with_suffix("").parts[1]
        others = {name.split(".")[1] for name in ours if name.startswith("tasks.")} - {
            stage,
            "stage",
        }
        assert not others, f"stage {stage} imports other stages: {others}"


def test_no_file_is_named_after_a_library():
    libraries = {"mlflow", "prefect", "datasets", "transformers", "torch", "peft", "trl", "gguf"}
    assert not [path for path in SOURCES if path.stem in libraries]


@pytest.mark.parametrize(
    "module", ["flows.cli", "flows.plan", "retune.config", "expectations.suite"]
)
def test_imports_are_light(module):
    heavy = [
        "torch",
        "transformers",
        "mlflow",
        "great_expectations",
        "datasets",
        "polars",
        "prefect",
    ]
    code = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.strip() == "[]"
