"""Calls of tools in a model's answer, as the chat templates of the model families write them."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

MOST = 64  # calls that are read of one answer, which bounds the time
# Hermes and Qwen write a call between tags, Mistral a list of them (or name and arguments) behind a mark.
TAG, LIST, ARGUMENTS = "<tool_call>", "[TOOL_CALLS]", "[ARGS]"
_LEADING = ("<|python_tag|>", "<|begin_of_text|>")  # before Llama's
_TRAILING = ("<|eom_id|>", "<|eot_id|>")
_CLOSING = "</tool_call>"


class ToolCall(NamedTuple):
    """A tool's name and the arguments that it is called with."""

    name: str
    arguments: dict[str, Any]


def tool_calls(text: str) -> list[ToolCall]:
    """Return the calls in an answer, in their order; what is not written as one is none.

    Known are `<tool_call>{"name", "arguments"}</tool_call>` (Hermes, Qwen), `[TOOL_CALLS][…]` and
    `[TOOL_CALLS]name[ARGS]{…}` (Mistral) and an answer that is nothing but `{"name", "parameters"}`, or
    several of these with a semicolon between them (Llama).
    """
    if TAG in text:
        return [call for place in _places(text, TAG) for call in _tagged(text, place)]
    if LIST in text:
        return [call for place in _places(text, LIST) for call in _listed(text, place)]
    return _bare(text)


def _places(text: str, mark: str) -> Iterator[int]:
    """Yield where the text behind each of the first marks begins."""
    place = -len(mark)
    for _ in range(MOST):
        place = text.find(mark, place + len(mark))
        if place < 0:
            return
        yield place + len(mark)


def _tagged(text: str, place: int) -> list[ToolCall]:
    end = text.find(_CLOSING, place)
    value, behind = _decoded(text[:end] if end >= 0 else text, place)
    if behind < 0 or text[behind : end if end >= 0 else len(text)].strip():
        return []
    return _calls([value])


def _listed(text: str, place: int) -> list[ToolCall]:
    rest = text[place:].lstrip()
    if rest.startswith("["):
        value, _ = _decoded(rest, 0)
        return _calls(value if isinstance(value, list) else [])
    # Newer ones: name[ARGS]{…}, or name{…}.
    head, brace, _ = rest.partition("{")
    name = head.removesuffix(ARGUMENTS).strip()
    if not brace or not name or any(one.isspace() for one in name):
        return []
    value, _ = _decoded(rest, len(head))
    return [ToolCall(name, value)] if isinstance(value, dict) else []


def _bare(text: str) -> list[ToolCall]:
    """Return the calls that an answer is, all of it."""
    rest = text.strip()
    for mark in _LEADING:
        rest = rest.removeprefix(mark).lstrip()
    for mark in _TRAILING:
        rest = rest.removesuffix(mark).rstrip()
    values: list[Any] = []
    place = 0
    while place < len(rest) and len(values) < MOST:
        value, place = _decoded(rest, place)
        if place < 0 or not isinstance(value, dict):
            return []
        values.append(value)
        while place < len(rest) and (rest[place].isspace() or rest[place] == ";"):
            place += 1
    calls = _calls(values)
    return calls if len(calls) == len(values) else []


def _calls(values: list[Any]) -> list[ToolCall]:
    return [call for value in values if (call := _call(value))]


def _call(value: Any) -> ToolCall | None:
    """Return what one JSON object calls; its arguments may be JSON text."""
    if not isinstance(value, dict):
        return None
    inner = value.get("function")
    function = inner if isinstance(inner, dict) else value
    name = function.get("name")
    arguments = function.get("arguments", function.get("parameters"))
    if isinstance(arguments, str):
        arguments, _ = _decoded(arguments, 0)
    if not isinstance(name, str) or not isinstance(arguments, dict | None):
        return None
    has_arguments = "arguments" in function or "parameters" in function
    return ToolCall(name, arguments or {}) if has_arguments else None


def _decoded(text: str, place: int) -> tuple[Any, int]:
    """Return the JSON value at a place, white space before it aside, and where it ends; -1 for none."""
    while place < len(text) and text[place].isspace():
        place += 1
    try:
        return json.JSONDecoder().raw_decode(text, place)
    except (ValueError, RecursionError):
        return None, -1
