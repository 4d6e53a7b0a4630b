"""What was asked and answered, out of a request and a response as traces and logs keep them."""

import json
from typing import Any

from pydantic import ValidationError

from retune.suites.probes import ProbeMessage

_SPOKEN = ("input", "prompt", "question", "query", "inputs")  # a trace's request of one text


def parsed(value: Any) -> Any:
    """Return what a text of JSON holds; any other value as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def asked(request: Any) -> list[dict[str, Any]]:
    """Return the messages of a request: OpenAI's, those of its Responses, or a text alone."""
    if isinstance(request, str) and request.strip():
        return [{"role": "user", "content": request}]
    if are_messages(request):
        return list(request)
    if isinstance(request, dict):
        system = request.get("instructions") or request.get("system")
        lead = [{"role": "system", "content": system}] if isinstance(system, str) else []
        for name in ("messages", *_SPOKEN):
            if messages := asked(request.get(name)):
                return [*lead, *messages]
    return []


def answered(response: Any) -> dict[str, Any] | None:
    """Return the message of a response: OpenAI's, one of several kinds of record, or a text."""
    if isinstance(response, str):
        return {"role": "assistant", "content": response} if response.strip() else None
    if isinstance(response, list):
        return answered(response[-1]) if response else None
    if not isinstance(response, dict):
        return None
    if "role" in response or "tool_calls" in response:
        return {**response, "role": "assistant"}
    for name in (
        "choices",
        "message",
        "messages",
        "output_text",
        "output",
        "answer",
        "content",
        "text",
    ):
        if found := answered(response.get(name)):
            return found
    return None


def are_messages(value: Any) -> bool:
    """Tell whether a value is a list of messages, of OpenAI's form or of ShareGPT's."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(one, dict) and ("role" in one or "from" in one) for one in value)
    )


def native(row: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]] | None:
    """Return messages and tools of a row in OpenAI's form, None for any other."""
    if not isinstance(row, dict) or not are_messages(row.get("messages")):
        return None
    known = ProbeMessage.model_fields.keys()
    tools = row.get("tools") or []
    try:
        messages = [
            ProbeMessage.model_validate_json(
                json.dumps({key: one[key] for key in known if one.get(key) is not None})
            ).plain()
            for one in row["messages"]
        ]
    except (ValidationError, ValueError):
        return None
    is_native = isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)
    return (messages, tools) if is_native else None
