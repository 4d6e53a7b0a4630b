"""One line for each mistake in a recipe: where, what was wrong, the value seen, what to change."""

from typing import Any, get_args

from pydantic import BaseModel

from retune.recipe.section import hint, shown


def explain(recipe: type[BaseModel], problem: Any) -> str:
    """One line for one pydantic error: where, what was wrong, the value seen, what to change."""
    path = ".".join(f"{part!s:.80}" for part in problem["loc"]) or "recipe"
    place = path if path.isprintable() else repr(path)  # a key may be anything
    if problem["type"] == "extra_forbidden":
        section = _section_at(recipe, problem["loc"][:-1])
        fields = section.model_fields if section else ()
        return f"unknown key {path!r}{hint(str(problem['loc'][-1])[:80], fields)}"
    if problem["type"] == "missing":
        return f"{place} is missing; add it"
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"{place}: {message} (got {shown(problem['input'])}){_quoting(problem)}"


def _section_at(recipe: type[BaseModel], path: tuple[Any, ...]) -> type[BaseModel] | None:
    """Return the section that stands at `path`, by way of lists and of sections by name."""
    annotation: Any = recipe
    for part in path:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            annotation = annotation.model_fields[part].annotation
        else:  # what one entry of a list, or of a section of names, is
            annotation = [arg for arg in get_args(annotation) if arg is not Ellipsis][-1]
        if None.__class__ in get_args(annotation):
            annotation = next(arg for arg in get_args(annotation) if arg is not None.__class__)
    return (
        annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
    )


def _quoting(problem: Any) -> str:
    """Return advice on a word that YAML takes for a truth value: `no` for Norway, `off`."""
    if isinstance(problem["input"], bool) and problem["type"] in ("string_type", "literal_error"):
        return "; YAML reads yes, no, on and off as true and false: put the word in quotes"
    return ""
