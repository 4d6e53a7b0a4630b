"""JSON in a model's answer, and whether it is as a schema wants it.

An answer is a stranger's: a schema's patterns are run by an engine that takes linear time, and no
schema is fetched from anywhere.
"""

import json
import math
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

_FENCE = re.compile(r"```[A-Za-z0-9]{0,20}[ \t]*\n(.*)\n[ \t]*```", re.DOTALL)
# What a sound schema judges without end.
_SAMPLES: tuple[Any, ...] = ({}, [], "", 0, None, {"a": {"a": []}}, [[""]])


class NotJSON(ValueError):
    """A text that is not JSON, or nothing but JSON."""


def json_of(text: str, fence: bool = True) -> Any:
    """Return the value that a text is in JSON; with `fence` also one in a single code fence.

    Raises NotJSON, also for JSON with text around it, for NaN and for a number that is too large.
    """
    body = text.strip()
    if fence and (match := _FENCE.fullmatch(body)):
        body = match[1]
    return strict_json(body)


def strict_json(text: str) -> Any:
    """Return the value of a JSON text as its standard has it. Raises NotJSON."""
    try:
        return json.loads(text, parse_constant=_refused, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise NotJSON(str(error)) from None


def _refused(word: str) -> Any:
    raise NotJSON(f"{word} is no JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise NotJSON(f"{digits:.20} is too large")
    return value


def conforms(value: Any, schema: dict[str, Any]) -> bool:
    """Tell whether a JSON value is as a JSON schema (2020-12) wants it."""
    try:
        return _validator(schema).is_valid(value)
    except (RecursionError, OverflowError):  # nested as no answer is meant to be
        return False


def require_schema(schema: dict[str, Any]) -> None:
    """Raise ValueError, which says why, for what is no JSON schema or none that is judged here."""
    from jsonschema import Draft202012Validator, FormatChecker, SchemaError
    from referencing.exceptions import Unresolvable

    try:
        # Without Python's own idea of a pattern: another engine runs it.
        Draft202012Validator.check_schema(schema, format_checker=FormatChecker(()))
    except SchemaError as error:
        raise ValueError(f"is no JSON schema: {error.message:.200}") from None
    for key, value in _keywords(schema):
        if key == "patternProperties":
            raise ValueError("has patternProperties, which are not read; use propertyNames")
        if key in ("$ref", "$dynamicRef") and not str(value).startswith("#"):
            raise ValueError(f"has a {key} to {value!r:.80}; only `#/…` is followed")
        if key == "pattern" and isinstance(value, str):
            require_pattern(value)
    try:
        for sample in _SAMPLES:
            _validator(schema).is_valid(sample)
    except Unresolvable as error:
        raise ValueError(f"has a $ref that leads nowhere: {error!s:.200}") from None
    except RecursionError:
        raise ValueError("refers to itself without end") from None


def _keywords(node: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        yield from node.items()
    for inner in (
        node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    ):
        yield from _keywords(inner)


def _validator(schema: dict[str, Any]) -> "Validator":
    from jsonschema import Draft202012Validator, ValidationError, validators
    from referencing import Registry

    def pattern(validator: Any, wanted: str, instance: Any, _: Any) -> Iterator[ValidationError]:
        if validator.is_type(instance, "string") and not matches(instance, wanted):
            yield ValidationError("does not match the pattern")

    kind = validators.extend(Draft202012Validator, {"pattern": pattern})
    return kind(schema, registry=Registry())


def matches(text: str, pattern: str) -> bool:
    """Tell whether a pattern (Rust's syntax) matches somewhere in a text, in linear time."""
    import polars as pl

    return bool(pl.Series([text]).str.contains(pattern).item())


def require_pattern(pattern: str) -> None:
    """Raise ValueError for a pattern that the engine does not know or that is too large for it."""
    import polars as pl

    try:
        matches("", pattern)
    except pl.exceptions.ComputeError as error:
        words = [line for line in str(error).splitlines() if line.startswith("error:")]
        reason = words[0].removeprefix("error: ") if words else "it is too large"
        raise ValueError(
            f"has the pattern {pattern!r:.80}, which is not read ({reason:.120}); look-around and "
            f"back-references are not known"
        ) from None
