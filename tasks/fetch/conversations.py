"""A row of any known format as a conversation: the reference, in plain Python.

`tasks.fetch.columns` does the same to whole columns of plain rows; a test holds that both agree.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from tasks.fetch.tool_calls import Message, called_in, with_calls, with_tools
from tasks.fetch.values import (
    Unreadable,
    as_label,
    as_number,
    as_text,
    kind_of,
    parse_json,
    shown,
)

# The names that datasets give to roles, in lower case; names not listed stay, for the gate to judge.
ROLES = {
    "human": "user",
    "user": "user",
    "prompter": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "ai": "assistant",
    "function_call": "assistant",
    "tool_call": "assistant",
    "system": "system",
    "developer": "system",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "ipython": "tool",
    "function_response": "tool",
    "tool_response": "tool",
}
CALL_ROLES = ("function_call", "tool_call")  # ShareGPT: what the assistant says is a call

# Columns that hold a conversation's messages, and the format that they are typical of.
TURN_COLUMNS = {"conversations": "sharegpt", "conversation": "sharegpt", "messages": "openai"}


class PairLayout(NamedTuple):
    """Columns that together are one question and its answer; `context` belongs to the question."""

    format: str
    question: str
    answer: str
    context: str | None = None


# In this order: a row may have the columns of several.
PAIRS = (
    PairLayout("alpaca", "instruction", "output", "input"),
    PairLayout("alpaca", "instruction", "response", "context"),  # Dolly
    PairLayout("prompt_completion", "prompt", "completion"),
    PairLayout("prompt_completion", "prompt", "response"),
    PairLayout("prompt_completion", "question", "answer", "context"),
    PairLayout("prompt_completion", "question", "response", "context"),  # OpenOrca
)
SYSTEM_COLUMNS = ("system", "system_prompt")
TOOL_COLUMNS = ("tools", "functions")
PREFERENCE_COLUMNS = ("chosen", "rejected")
KNOWN_COLUMNS = {
    *TURN_COLUMNS,
    *(name for pair in PAIRS for name in pair[1:] if name),
    *SYSTEM_COLUMNS,
    *TOOL_COLUMNS,
    *PREFERENCE_COLUMNS,
    *("history", "label", "source", "score"),
}

EXPECTED = (
    "expected `conversations` (ShareGPT), `messages` (OpenAI), `instruction` and `output` (Alpaca), or "
    "`prompt` and `completion`"
)
PREFERENCE_PAIR = (
    "the row is a preference pair (`chosen` and `rejected`), which DPO and ORPO train on, and no "
    "conversation"
)


class Reading(NamedTuple):
    """What was read from a row: its messages, or the `problem` that kept them from being read."""

    messages: list[Message] | None
    source: str | None
    score: float | None
    format: str | None
    problem: str | None


def read_row(row: Any) -> Reading:
    """Return the content of a row. Never raises: a row that cannot be read has a `problem`.

    `row` is a JSON value, or the Unreadable that represents one. Null is the same as absent.
    """
    if isinstance(row, Unreadable):
        return Reading(None, None, None, None, str(row))
    if not isinstance(row, dict):
        problem = f"the row is {kind_of(row)}, not an object: {_attempt(shown, row)[0]}"
        return Reading(None, None, None, None, problem)
    row = _present(row)
    layout = layout_of(row)
    messages, row_problem = _attempt(_conversation, row, layout)
    score, score_problem = _attempt(as_number, row.get("score"), "`score`")
    source, source_problem = _attempt(as_label, row.get("source"))
    reason = row_problem or score_problem or source_problem
    return Reading(None if reason else messages, source, score, format_of(layout), reason)


def layout_of(columns: dict[str, Any]) -> str | PairLayout | None:
    """Return which of the columns hold the conversation: a column of turns, a pair, or None."""
    for column in TURN_COLUMNS:
        if column in columns:
            return column
    return next((pair for pair in PAIRS if {pair.question, pair.answer} <= columns.keys()), None)


def format_of(layout: str | PairLayout | None) -> str | None:
    """Return the format's name in `retune.records.Rows`."""
    return layout.format if isinstance(layout, PairLayout) else TURN_COLUMNS.get(layout or "")


def _attempt(function: Callable[..., Any], *arguments: Any) -> tuple[Any, str | None]:
    """Return what a function returns and None, or None and why it could not."""
    try:
        return function(*arguments), None
    except Unreadable as problem:
        return None, str(problem)
    except RecursionError:
        return None, "the row is nested too deeply"


def _conversation(row: dict[str, Any], layout: str | PairLayout | None) -> list[Message]:
    """Return the messages of a row. Raises Unreadable, for a preference pair saying so."""
    is_preference = set(PREFERENCE_COLUMNS) <= row.keys()
    try:
        messages = _messages(row, layout)
    except Unreadable:
        if is_preference:
            raise Unreadable(PREFERENCE_PAIR) from None
        raise
    # Such a row may hold a whole conversation next to the pair, or only the question to it.
    if is_preference and (not messages or messages[-1][0] != "assistant"):
        raise Unreadable(PREFERENCE_PAIR)
    return messages


def _messages(row: dict[str, Any], layout: str | PairLayout | None) -> list[Message]:
    if layout is None:
        raise Unreadable(_why_no_layout(row))
    if isinstance(layout, PairLayout):
        messages = _from_pair(row, layout)
    else:
        messages = _from_turns(row[layout], f"`{layout}`")
    for column in SYSTEM_COLUMNS:
        text = as_text(row.get(column, ""), f"`{column}`")
        if text and not any(role == "system" for role, _ in messages):
            messages = [("system", text), *messages]
    for column in TOOL_COLUMNS:
        if column in row:
            messages = with_tools(messages, row[column])
    return messages


def _why_no_layout(row: dict[str, Any]) -> str:
    for question in dict.fromkeys(pair.question for pair in PAIRS):
        if question in row:
            answers = [f"`{pair.answer}`" for pair in PAIRS if pair.question == question]
            return f"there is `{question}` but no {' or '.join(answers)}"
    return f"no usable columns among {shown([str(name) for name in row])}; {EXPECTED}"


def _from_turns(turns: Any, what: str) -> list[Message]:
    """Return messages of a list of turns, or of its JSON text, which is what CSV files carry."""
    if isinstance(turns, str | bytes):
        turns = parse_json(as_text(turns, what), what)
    if not isinstance(turns, list):
        raise Unreadable(f"{what} is {kind_of(turns)}, not a list of messages: {shown(turns)}")
    return [_message(turn, f"message {number} of {what}") for number, turn in enumerate(turns)]


def _message(turn: Any, where: str) -> Message:
    """Return one turn of ShareGPT (`from`, `value`), OpenAI (`role`, `content`) or between them."""
    if not isinstance(turn, dict):
        raise Unreadable(f"{where} is {kind_of(turn)}, not an object: {shown(turn)}")
    turn = _present(turn)
    role = turn.get("role", turn.get("from"))
    content = turn.get("content", turn.get("value"))
    if role is None:
        raise Unreadable(f"{where} has no `role` (or `from`): {shown(turn)}")
    if not isinstance(role, str):
        raise Unreadable(f"the role of {where} is {kind_of(role)}, not text: {shown(role)}")
    calls = _calls(turn, where)
    if role.lower() in CALL_ROLES and (called := called_in(content)):
        content, calls = "", [*called, *calls]
    if content is None and not calls:
        raise Unreadable(f"{where} has no `content` (or `value`): {shown(turn)}")
    text = "" if content is None else as_text(content, f"the content of {where}")
    return ROLES.get(role.lower(), role), with_calls(text, calls, where)


def _calls(turn: dict[str, Any], where: str) -> list[Any]:
    """Return a turn's tool calls, with OpenAI's older `function_call` as one of them."""
    calls = turn.get("tool_calls", [])
    if isinstance(calls, str) and calls.strip():
        calls = parse_json(calls, f"`tool_calls` of {where}")
    calls = calls or []
    if not isinstance(calls, list):
        raise Unreadable(f"`tool_calls` of {where} is {kind_of(calls)}, not a list: {shown(calls)}")
    return [*calls, turn["function_call"]] if turn.get("function_call") else calls


def _from_pair(row: dict[str, Any], pair: PairLayout) -> list[Message]:
    """Return question and answer, each text or, as TRL has them, a list of messages."""
    if pair.format == "prompt_completion" and row.get("label") is False:
        raise Unreadable("its `label` is false: an answer not to give (KTO)")
    question, answer = row[pair.question], row[pair.answer]
    if isinstance(question, list):
        messages = _from_turns(question, f"`{pair.question}`")
    else:
        messages = [*_history(row.get("history")), ("user", _question(row, pair))]
    if isinstance(answer, list):
        return messages + _from_turns(answer, f"`{pair.answer}`")
    return [*messages, ("assistant", as_text(answer, f"`{pair.answer}`"))]


def _question(row: dict[str, Any], pair: PairLayout) -> str:
    columns = [pair.question, *([pair.context] if pair.context else [])]
    texts = [as_text(row.get(column, ""), f"`{column}`") for column in columns]
    return "\n\n".join(text for text in texts if text)


def _history(history: Any) -> list[Message]:
    """Return the earlier rounds of an Alpaca row: [[question, answer], ...] or its JSON text."""
    if isinstance(history, str) and history.strip():
        history = parse_json(history, "`history`")
    history = history or []
    if not isinstance(history, list):
        raise Unreadable(f"`history` is {kind_of(history)}, not a list: {shown(history)}")
    messages: list[Message] = []
    for number, rounds in enumerate(history):
        what = f"round {number} of `history`"
        if not isinstance(rounds, list) or len(rounds) != 2:
            raise Unreadable(f"{what} is not a question and an answer: {shown(rounds)}")
        messages += zip(
            ("user", "assistant"), (as_text(text, what) for text in rounds), strict=True
        )
    return messages


def _present(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
