"""Go's text/template as far as our Modelfiles use it, over what Ollama makes of a conversation.

The same templates and conversations went through Go and Ollama's own template package.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

Node = tuple[
    str, str, list, list
]  # word, the rest of its action, what is inside, what is behind else

TOKEN = re.compile(r'\s*("(?:\\.|[^"\\])*"|`[^`]*`|\$?\w*(?:\.\w+)+|\$\w*|[\w.]+|\(|\)|:=|=|,)')


def go(template: str, messages: list[dict[str, Any]], tools: list[dict] | None = None) -> str:
    """Return the prompt that Ollama makes of a conversation by `template`."""
    # A dash takes away white space on its side.
    template = re.sub(r"\s*\{\{- ", "{{ ", re.sub(r" -\}\}\s*", " }}", template))
    parts = re.split(r"\{\{ (.*?) \}\}", template, flags=re.DOTALL)
    nodes, rest = _nodes(parts, 0)
    assert rest == len(parts), "an end too many"
    root = {"Messages": [_message(m) for m in messages], "Tools": [_tool(t) for t in tools or []]}
    return "".join(_written(nodes, root, [{"$": root}]))


def go_json(value: Any) -> str:
    """Return what Go's json.Marshal makes of a value: no spaces, maps sorted, HTML escaped."""
    text = json.dumps(_sorted(value), ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


class Struct(dict):
    """A struct of Go: its fields keep their order, by the names that JSON has for them."""


def _message(message: dict[str, Any]) -> dict[str, Any]:
    calls = [call["function"] for call in message.get("tool_calls") or []]
    functions = [{"Name": call["name"], "Arguments": call["arguments"]} for call in calls]
    return {
        "Role": message["role"],
        "Content": message.get("content") or "",
        "ToolCalls": [{"Function": function} for function in functions],
    }


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    function = tool["function"]
    parameters = function.get("parameters", {})
    properties = {
        name: Struct(
            {key: p[key] for key in PROPERTY if p.get(key) or (p.get(key) == [] and key == "items")}
        )
        for name, p in parameters.get("properties", {}).items()
    }
    described = {"Type": parameters.get("type", ""), "Properties": properties}
    described |= {"Required": parameters.get("required", [])}
    function = {"Name": function["name"], "Description": function.get("description", "")}
    return {"Function": function | {"Parameters": described}}


def _property(schema: dict[str, Any]) -> Struct:
    """Return what Ollama knows of a parameter; what is empty goes, but for `items`, of any type."""
    kept = (key for key in PROPERTY if schema.get(key) or (key == "items" and key in schema))
    return Struct({key: schema[key] for key in kept})


PROPERTY = ("anyOf", "type", "items", "description", "enum", "properties", "required")


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        items = value.items() if isinstance(value, Struct) else sorted(value.items())
        return {key: _sorted(part) for key, part in items}
    return [_sorted(part) for part in value] if isinstance(value, list) else value


def _nodes(parts: list[str], at: int) -> tuple[list[str | Node], int]:
    """Return the nodes up to the end of the block, and where that is; text and actions take turns."""
    nodes: list[str | Node] = []
    while at < len(parts):
        if at % 2 == 0:
            nodes.append(parts[at])
            at += 1
            continue
        word, _, rest = parts[at].partition(" ")
        if word in ("else", "end"):
            return nodes, at
        at += 1
        if word in ("if", "range", "with"):
            inside, at = _nodes(parts, at)
            behind: list[str | Node] = []
            if parts[at] == "else":
                behind, at = _nodes(parts, at + 1)
            assert parts[at] == "end"
            at += 1
            nodes.append((word, rest, inside, behind))
        else:
            nodes.append(("write", f"{word} {rest}", [], []))
    return nodes, at


def _written(nodes: list[str | Node], dot: Any, scopes: list[dict[str, Any]]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, str):
            yield node
            continue
        word, text, inside, behind = node
        names, operator, pipeline = _declared(text)
        value = _value(pipeline, dot, scopes)
        if word == "range":
            items = sorted(value.items()) if isinstance(value, dict) else enumerate(value)
            for pair in items:
                scope = dict(zip(names, pair, strict=bool(names)))
                yield from _written(inside, pair[1], [*scopes, scope])
            continue
        if operator == ":=":
            scopes[-1][names[0]] = value
        elif operator == "=":
            next(s for s in reversed(scopes) if names[0] in s)[names[0]] = value
        elif word == "write":
            assert isinstance(value, str)
            yield value
        elif value:
            yield from _written(inside, value if word == "with" else dot, [*scopes, {}])
        else:
            yield from _written(behind, dot, [*scopes, {}])


def _declared(text: str) -> tuple[list[str], str, list[str]]:
    """Return the variables that an action sets, by := or =, and the tokens of the value."""
    tokens = TOKEN.findall(text)
    assert "".join(tokens) == re.sub(r"\s", "", text) or '"' in text, text
    for operator in (":=", "="):
        if operator in tokens:
            at = tokens.index(operator)
            return [t for t in tokens[:at] if t != ","], operator, tokens[at + 1 :]
    return [], "", tokens


def _value(tokens: list[str], dot: Any, scopes: list[dict[str, Any]]) -> Any:
    """Return the value of a command: one operand, or a function with its arguments."""
    operands = []
    at = 0
    while at < len(tokens):
        if tokens[at] == "(":
            depth, end = 1, at
            while depth:
                end += 1
                depth += {"(": 1, ")": -1}.get(tokens[end], 0)
            operands.append(_value(tokens[at + 1 : end], dot, scopes))
            at = end + 1
        else:
            operands.append(_operand(tokens[at], dot, scopes))
            at += 1
    first, *arguments = operands
    return first(*arguments) if callable(first) else first


FUNCTIONS = {
    "eq": lambda value, *others: value in others,
    "ne": lambda one, other: one != other,
    "not": lambda value: not value,
    "and": lambda *values: next((value for value in values if not value), values[-1]),
    "or": lambda *values: next((value for value in values if value), values[-1]),
    "gt": lambda one, other: one > other,
    "len": len,
    "slice": lambda values, start: values[start:],
    "json": go_json,
}


def _operand(token: str, dot: Any, scopes: list[dict[str, Any]]) -> Any:
    if token in FUNCTIONS:
        return FUNCTIONS[token]
    if token in ("true", "false") or token.isdigit():
        return json.loads(token)
    if token[0] == "`":
        return token[1:-1]
    if token[0] == '"':
        return json.loads(token)
    name, *fields = token.split(".")
    value = next(s for s in reversed(scopes) if name in s)[name] if name else dot
    for field in filter(None, fields):
        value = value.get(field.lower(), "") if isinstance(value, Struct) else value[field]
    return value
