"""Tools as text, in the convention of Hermes and Qwen: a model learns to call by reading and writing.

Schemas stand in the system message between `<tools>` tags, one JSON object per line; a call stands
in the assistant's message between `<tool_call>` tags.
"""

import json
from contextlib import suppress
from typing import Any

from tasks.fetch.values import Unreadable, kind_of, parse_json, shown

Message = tuple[str, str]  # role, content

# Word for word as in Qwen's chat template, which agrees with Hermes's.
_TOOLS = """\
# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{schemas}
</tools>

For each function call, return a json object with function name and arguments within \
<tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""


def with_calls(content: str, calls: list[Any], where: str) -> str:
    """Return an assistant's text with its tool calls behind it, one block per call.

    `calls` are OpenAI's (`{"function": {"name", "arguments"}}`) or bare (`{"name", "arguments"}`).
    Raises Unreadable when one has no name.
    """
    blocks = [_block(call, f"call {number} of {where}") for number, call in enumerate(calls)]
    return "\n".join([content, *blocks] if content else blocks)


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
    at = next((n for n, (role, _) in enumerate(messages) if role == "system"), None)
    if not schemas or (at is not None and "<tools>" in messages[at][1]):
        return messages
    text = _TOOLS.format(schemas="\n".join(_json(schema) for schema in schemas))
    if at is None:
        return [("system", text), *messages]
    system = f"{messages[at][1]}\n\n{text}" if messages[at][1] else text
    return [*messages[:at], ("system", system), *messages[at + 1 :]]


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
    return f"<tool_call>\n{_json({'name': name, 'arguments': arguments})}\n</tool_call>"


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
    """Return one schema as OpenAI wraps it, which is what models were shown in training."""
    if isinstance(schema, str):
        schema = parse_json(schema, "a schema in `tools`")
    if not isinstance(schema, dict):
        raise Unreadable(
            f"a schema in `tools` is {kind_of(schema)}, not an object: {shown(schema)}"
        )
    is_wrapped = "function" in schema or schema.get("type") == "function"
    return schema if is_wrapped else {"type": "function", "function": schema}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
