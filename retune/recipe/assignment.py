"""Changes to a recipe, one setting at a time, and its settings in one level."""

from typing import Any

from pydantic import BaseModel

from retune.recipe.section import RecipeError, shown


def set_value(values: dict[str, Any], assignment: str) -> dict[str, Any]:
    """Return a copy of nested `values` with one `section.key=value` applied.

    The value is YAML, but for comments: ` #1.jsonl` is the end of a name.
    """
    from retune.documents import read_yaml

    path, equals, text = assignment.partition("=")
    keys = path.strip().split(".")
    origin = f"--set {assignment!r:.80}"
    if not equals or not all(keys) or len(keys) > 10:
        raise RecipeError(f"{origin}: expected section.key=value, e.g. training.learning_rate=1e-4")
    if not isinstance(values, dict):
        raise RecipeError(f"{origin}: the recipe has no sections, it is {shown(values)}")
    *parents, last = keys
    changed = node = dict(values)
    for key in parents:
        child = node.get(key) or {}
        if not isinstance(child, dict):
            raise RecipeError(f"{origin}: {key} is {shown(child)}, not a section")
        node[key] = node = dict(child)
    value = read_yaml(text, origin)
    # A sentence may have a colon in it; a mapping in one line has braces.
    is_plain = isinstance(value, str | dict) and text.strip()[0] not in "\"'|>!&*{"
    node[last] = text.strip() if is_plain else value
    return changed


def flat(section: BaseModel, prefix: str = "") -> dict[str, Any]:
    """Return every setting below `section` by its dotted name, e.g. `training.learning_rate`."""
    values: dict[str, Any] = {}
    for key in type(section).model_fields:
        value = getattr(section, key)
        if isinstance(value, BaseModel):
            values |= flat(value, f"{prefix}{key}.")
        else:
            values[f"{prefix}{key}"] = value
    return values
