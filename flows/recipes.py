"""Recipes by name: the deployments in `prefect.yaml`, or a YAML file."""

from pathlib import Path
from typing import Any

from retune.documents import read_yaml_file
from retune.environment import ROOT
from retune.escaping import visible
from retune.recipe import Recipe, RecipeError, set_value

DEPLOYMENTS = Path("prefect.yaml")
RETRAIN = "flows/retrain.py:retrain"  # entry point of what has a recipe as its parameters


def load(name: str, assignments: list[str]) -> Recipe:
    """Return the recipe of a deployment in `prefect.yaml`, or of a YAML file, with changes applied.

    `assignments` are `section.key=value`. Raises RecipeError.
    """
    values, origin = _read(name)
    for assignment in assignments:
        values = set_value(values, assignment)
    return Recipe.parse(values, origin)


def deployments_file() -> Path:
    """Return the `prefect.yaml` of the current folder, else the one that came with retune."""
    return DEPLOYMENTS if DEPLOYMENTS.is_file() else ROOT / DEPLOYMENTS


def entries() -> list[Any]:
    """Return what `prefect.yaml` has below `deployments`, as it stands there. Raises RecipeError."""
    content = _yaml(deployments_file())
    declared = content.get("deployments") if isinstance(content, dict) else None
    return declared if isinstance(declared, list) else []


def deployments() -> dict[str, dict[str, Any]]:
    """Return the parameters of every deployment of a recipe in `prefect.yaml`, by name; those of other
    flows are left out. Raises RecipeError."""
    parameters: dict[str, dict[str, Any]] = {}
    for entry in entries():
        if isinstance(entry, dict) and entry.get("entrypoint", RETRAIN) != RETRAIN:
            continue
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise RecipeError(f"{DEPLOYMENTS}: a deployment needs a name, got {entry!r:.80}")
        if entry["name"] in parameters:
            raise RecipeError(f"{DEPLOYMENTS}: two deployments are named {entry['name']!r:.80}")
        parameters[entry["name"]] = entry.get("parameters") or {}
    return parameters


def _read(name: str) -> tuple[Any, str]:
    if Path(name).suffix in (".yaml", ".yml"):
        if not Path(name).is_file():
            raise RecipeError(f"no recipe file {name!r} in {Path.cwd()}; correct the path")
        return _yaml(Path(name)), visible(name)
    declared = deployments()
    if name not in declared:
        names = ", ".join(declared) or "none"
        raise RecipeError(
            f"no deployment {name!r} in {DEPLOYMENTS} (there: {names}); name one, or a .yaml file"
        )
    return declared[name], f"{DEPLOYMENTS} ({name})"


def _yaml(path: Path) -> Any:
    return read_yaml_file(path, visible(path))
