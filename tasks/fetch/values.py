"""Values as a row holds them: what kind they are in a reader's words, and text out of them."""

import json
import math
from decimal import Decimal
from typing import Any

from expectations.data.masking import LONGEST_QUOTED, mask
from tasks.fetch.budget import BUDGET

_KINDS = {
    bool: "a boolean",
    int: "a number",
    float: "a number",
    Decimal: "a number",
    str: "text",
    dict: "an object",
    list: "a list",
    type(None): "null",
}
TEXT_PARTS = ("text", "input_text", "output_text")
_MEDIA = ("image", "audio", "video")
MULTIMODAL = "the row is multimodal, and retune trains on text"


class Unreadable(ValueError):
    """A row, or a part of one, that is no conversation; one sentence that says why."""


def kind_of(value: Any) -> str:
    """Return what a value is, in JSON's words."""
    return _KINDS.get(type(value)) or f"a {type(value).__name__}"


def shown(value: Any) -> str:
    """Return a value for an error message: as JSON, secrets masked, at most 80 characters of it."""
    if isinstance(value, str):
        value = value[:LONGEST_QUOTED]  # the rest of a long text would be quoted for nothing
    return f"{mask(json.dumps(value, ensure_ascii=False, default=str)):.80}"


def parse_json(text: str, what: str) -> Any:
    """Return the value of a JSON text; NaN and Infinity are numbers. Raises Unreadable, also for a
    text that is over the row's budget."""
    if problem := BUDGET.get().excess(text.encode("utf-8", "surrogatepass"), what):
        raise Unreadable(problem)
    return json_value(text, what)


def json_value(text: str, what: str) -> Any:
    """Do what `parse_json` does with a text that is known to be within the budget."""
    try:
        return json.loads(text)
    except RecursionError:
        raise Unreadable(f"{what} is nested too deeply: {shown(text)}") from None
    except ValueError as error:  # also for numbers of thousands of digits
        raise Unreadable(f"{what} is not JSON ({error}): {shown(text)}") from None


def as_text(value: Any, what: str) -> str:
    """Return text, a text in bytes, or the texts of content parts, one behind the other.

    Raises Unreadable for anything else; a picture in a part is something else.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, list):
        return "".join(part_text(part, f"part {n} of {what}") for n, part in enumerate(value))
    raise Unreadable(f"{what} is {kind_of(value)}, not text: {shown(value)}")


def part_text(part: Any, what: str) -> str:
    """Return the text of a content part: OpenAI's and Anthropic's has a `text`, LLaMA-Factory's a
    `value`. Raises Unreadable if it is none."""
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        raise Unreadable(f"{what} is {kind_of(part)}, not text: {shown(part)}")
    kind = part.get("type", "text")
    text = part.get("text", part.get("value"))
    if isinstance(text, str) and kind in TEXT_PARTS:
        return text
    if isinstance(kind, str) and any(medium in kind for medium in _MEDIA):
        raise Unreadable(f"{what} is not text but of type {shown(kind)}: {MULTIMODAL}")
    raise Unreadable(f"{what} is not text but of type {shown(part.get('type'))}")


def as_number(value: Any, what: str) -> float | None:
    """Return a number, or the number that a text holds; None for null and empty text.

    NaN and infinities are numbers. Raises Unreadable for anything else.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, int | float | Decimal | str) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            return math.inf if Decimal(value) > 0 else -math.inf
        except ValueError:
            pass
    raise Unreadable(f"{what} is not a number but {kind_of(value)}: {shown(value)}")


def as_label(value: Any) -> str | None:
    """Return a value as a short name: text as it is, anything else as JSON; None for null."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return json.dumps(value, ensure_ascii=False, default=str)
