"""Tools and calls as rows have them, read into the text that `retune.tool_text` makes of them."""

from contextlib import suppress
from typing import Any, NamedTuple

from retune import tool_text
from tasks.fetch.values import Unreadable, kind_of, parse_json, shown

_CALL_KEYS = {"id", "index", "type"}  # which call it is, and that it is one of a function
_FUNCTION_KEYS = {"name", "arguments"}


class Message(NamedTuple):
    """One message of a row; `learn` is False where it must not be learnt, else None."""

    role: str
    content: str
    learn: bool | None = None


def with_calls(content: str, calls: list[Any], where: str) -> str:
    """Return an assistant's text with its tool calls behind it, one block per call.

    `calls` are OpenAI's (`{"function": {"name", "arguments"}}`) or bare (`{"name", "arguments"}`).
    Raises Unreadable when one has no name.
    """
    blocks = [_block(call, f"call {number} of {where}") for number, call in enumerate(calls)]
    return tool_text.with_calls(content, blocks)


def unused_keys(call: Any) -> list[str]:
    """Return the keys with a value in a call that nothing is made of, e.g. `tool_calls.parameters`."""
    if not isinstance(call, dict):
        return []
    inner = call["function"] if isinstance(call.get("function"), dict) else {}
    known = {*_CALL_KEYS, "function"} if inner else {*_CALL_KEYS, *_FUNCTION_KEYS}
    names = [f"tool_calls.{key}" for key in call.keys() - known if call[key] is not None]
    inner_names = inner.keys() - _FUNCTION_KEYS
    return names + [f"tool_calls.function.{n}" for n in inner_names if inner[n] is not None]


def called_in(content: Any) -> list[Any] | None:
    """Return the calls that a ShareGPT `function_call` turn holds, None if it is not JSON of calls."""
    try:
        value = parse_json(content, "") if isinstance(content, str) else content
    except Unreadable:
        return None
    calls = value if isinstance(value, list) else [value]
    return calls if calls and all(_name(call) for call in calls) else None


def with_tools(messages: list[Message], tools: Any) -> list[Message]:
    """Return the messages with the tools' schemas in the system message, made if there is none.

    `tools` is a list of OpenAI function schemas, bare or wrapped, or its JSON text. Messages whose
    system message has a `<tools>` block already stay as they are. Raises Unreadable when a schema
    is not an object.
    """
    schemas = _schemas(tools)
    at = next((n for n, one in enumerate(messages) if one.role == "system"), None)
    if not schemas:
        return messages
    if at is None:
        return [Message("system", tool_text.with_tools("", schemas)), *messages]
    system = tool_text.with_tools(messages[at].content, schemas)
    return [*messages[:at], messages[at]._replace(content=system), *messages[at + 1 :]]


def _block(call: Any, where: str) -> str:
    name = _name(call)
    if not name:
        raise Unreadable(f"{where} has no function name: {shown(call)}")
    function = call["function"] if isinstance(call.get("function"), dict) else call
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        with suppress(Unreadable):  # what a model once wrote need not be JSON; then it stays text
            arguments = parse_json(arguments, "")
    arguments = {} if arguments is None else arguments
    return tool_text.call_text(name, arguments)


def _name(call: Any) -> str | None:
    """Return the function that a call names, None if it is not a call."""
    function = call.get("function", call) if isinstance(call, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) else None


def _schemas(tools: Any) -> list[dict[str, Any]]:
    value = parse_json(tools, "`tools`") if isinstance(tools, str) and tools.strip() else tools
    schemas = value if isinstance(value, list) else [value] if value else []
    return [_schema(schema) for schema in schemas]


def _schema(schema: Any) -> dict[str, Any]:
    if isinstance(schema, str):
        schema = parse_json(schema, "a schema in `tools`")
    if not isinstance(schema, dict):
        raise Unreadable(
            f"a schema in `tools` is {kind_of(schema)}, not an object: {shown(schema)}"
        )
    if "input_schema" in schema and "parameters" not in schema:  # Anthropic's name for it
        schema = {"parameters" if k == "input_schema" else k: v for k, v in schema.items()}
    return schema
