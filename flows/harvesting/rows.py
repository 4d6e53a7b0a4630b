"""A record as a row to learn from: its conversation up to one answer, masked."""

import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from flows.harvesting.records import Record
from flows.logged_chats import answered, asked, native, parsed

Row = dict[str, Any]
_CODED = ("role", "type", "id", "tool_call_id")  # keys whose values are no words of a person


class NoRow(ValueError):
    """A record that no row can be made of; one masked sentence that says why."""


class Redacted(NamedTuple):
    """A row that is safe to keep (None: what is left is no conversation, or still holds a secret), and
    whether anything was masked."""

    row: Row | None
    changed: bool


def row_of(record: Record) -> Row:
    """Return `messages` that end with the answer, and `tools` if there are any. Raises NoRow.

    The answer is the edited one if there is one. Earlier answers have `weight` 0: each of them is the
    last one of a record of its own, where it was judged.
    """
    try:
        return _row(record)
    except RecursionError:
        raise NoRow("the conversation is nested too deeply") from None


def _row(record: Record) -> Row:
    messages, tools = _conversation(record)
    has_answer = messages[-1]["role"] == "assistant"
    if record.edit:
        edited = {"role": "assistant", "content": record.edit}
        messages = [*messages[:-1], edited] if has_answer else [*messages, edited]
    elif not has_answer:
        raise NoRow("there is no answer")
    if not any(message["role"] == "user" for message in messages):
        raise NoRow("there is no question")
    earlier = [
        message | ({"weight": 0} if message["role"] == "assistant" else {})
        for message in _renumbered(messages[:-1])
    ]
    row = {"messages": [*earlier, *_renumbered(messages)[-1:]]}
    return row | ({"tools": tools} if tools else {})


def _conversation(record: Record) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    request, response = record.request, record.response
    choices = response.get("choices") if isinstance(response, dict) else None
    if isinstance(choices, list) and len(choices) > 1 and not record.edit:
        raise NoRow(f"there are {len(choices)} answers, and it is not known which was shown")
    messages, reply = asked(request), answered(response)
    if not messages:
        raise NoRow("the request has no messages")
    tools = request.get("tools") if isinstance(request, dict) else None
    row = {"messages": [*messages, *([reply] if reply else [])], "tools": tools}
    return native(row) or (_read(row), [])


def _read(row: Row) -> list[dict[str, Any]]:
    """Return the messages of any other form that datasets have; calls and tools are text in them."""
    from tasks.fetch.conversations import read_row

    reading = read_row(row)
    if not reading.messages:
        raise NoRow(reading.problem or "there are no messages")
    return [{"role": one.role, "content": one.content} for one in reading.messages]


def _renumbered(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return messages whose calls of tools have ids of our own, and their arguments as text."""
    ids: dict[str, str] = {}

    def of_call(call: dict[str, Any]) -> dict[str, Any]:
        function = call.get("function")
        if isinstance(function, dict) and not isinstance(function.get("arguments", ""), str):
            text = json.dumps(function["arguments"], ensure_ascii=False)
            call = call | {"function": function | {"arguments": text}}
        name = call.get("id")
        return call | ({"id": number(name)} if isinstance(name, str) else {})

    def number(name: str) -> str:
        return ids.setdefault(name, f"call_{len(ids) + 1}")

    renumbered = []
    for message in messages:
        if calls := message.get("tool_calls"):
            message = message | {"tool_calls": [of_call(call) for call in calls]}
        if result := message.get("tool_call_id"):
            message = message | {"tool_call_id": number(result)}
        renumbered.append(message)
    return renumbered


def redacted(rows: Sequence[Row]) -> list[Redacted]:
    """Return rows with a word in the place of every secret and of what belongs to a person."""
    import polars as pl

    from expectations.data.credentials import has_secret
    from expectations.data.masking import masked

    found = [[_whole(text) for text in _texts(row)] for row in rows]
    texts = pl.Series([text for row in found for text in row], dtype=pl.String)
    safe = masked(texts)
    secret = has_secret(safe).fill_null(value=True).to_list()
    at, results = 0, []
    for row, own in zip(rows, found, strict=True):
        masks, doubts = safe[at : at + len(own)].to_list(), secret[at : at + len(own)]
        at += len(own)
        kept = _with_texts(row, iter(masks))
        is_whole = not any(doubts) and _is_read(kept) and _are_calls_whole(row, kept)
        results.append(Redacted(kept if is_whole else None, masks != own))
    return results


def _is_read(row: Row) -> bool:
    """Tell whether fetch reads a row, as it will."""
    from tasks.fetch.conversations import read_row

    return read_row(row).problem is None


def _are_calls_whole(before: Row, after: Row) -> bool:
    """Tell whether the arguments of calls are JSON still: a mask may end in the middle of them."""
    pairs = zip(_arguments(before), _arguments(after), strict=True)
    return all(
        not isinstance(parsed(old), dict) or isinstance(parsed(new), dict) for old, new in pairs
    )


def _arguments(row: Row) -> list[Any]:
    calls = [call for message in row["messages"] for call in message.get("tool_calls", ())]
    functions = [call.get("function") for call in calls]
    return [one.get("arguments") if isinstance(one, dict) else None for one in functions]


def _whole(text: str) -> str:
    """Return text with U+FFFD for halves of characters, which no file of UTF-8 holds."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _texts(value: Any) -> Iterator[str]:
    """Yield all texts in a value, in order, but for those that are no words of a person."""
    if isinstance(value, str):
        yield value
    for part in _parts(value):
        yield from _texts(part)


def _parts(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [part for key, part in value.items() if key not in _CODED]
    return value if isinstance(value, list) else []


def _with_texts(value: Any, texts: Iterator[str]) -> Any:
    """Return a value with other texts in the places of those that `_texts` yields."""
    if isinstance(value, str):
        return next(texts)
    if isinstance(value, list):
        return [_with_texts(part, texts) for part in value]
    if isinstance(value, dict):
        return {
            key: part if key in _CODED else _with_texts(part, texts) for key, part in value.items()
        }
    return value
