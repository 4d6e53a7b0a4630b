"""Recipes by name: the deployments in `prefect.yaml`, or a YAML file."""

from pathlib import Path
from typing import Any

from retune.config import Recipe, RecipeError, set_value

DEPLOYMENTS = Path("prefect.yaml")


def load(name: str, assignments: list[str]) -> Recipe:
    """Return the recipe of a deployment in `prefect.yaml`, or of a YAML file, with changes applied.

    `assignments` are `section.key=value`. Raises RecipeError.
    """
    values, origin = _read(name)
    for assignment in assignments:
        values = set_value(values, assignment)
    return Recipe.parse(values, origin)


def deployments() -> dict[str, dict[str, Any]]:
    """Return the parameters of every deployment in `prefect.yaml`, by name."""
    if not DEPLOYMENTS.is_file():
        return {}
    declared = _yaml(DEPLOYMENTS).get("deployments", [])
    return {entry["name"]: entry.get("parameters", {}) for entry in declared}


def _read(name: str) -> tuple[Any, str]:
    if Path(name).suffix in (".yaml", ".yml"):
        if not Path(name).is_file():
            raise RecipeError(f"no recipe file {name!r} in {Path.cwd()}; correct the path")
        return _yaml(Path(name)), name
    known = deployments()
    if name not in known:
        there = ", ".join(known) or "none: run this in the project's folder"
        raise RecipeError(
            f"no deployment {name!r} in {DEPLOYMENTS} (there: {there}); name one, or a .yaml file"
        )
    return known[name], f"{DEPLOYMENTS} ({name})"


def _yaml(path: Path) -> Any:
    import yaml

    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
