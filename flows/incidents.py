"""An incident from where it was seen: a conversation in a file, or a trace in MLflow."""

import json
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

from flows.logged_chats import answered, are_messages, asked, native, parsed
from retune.suites.incidents import NoIncident
from retune.suites.probes import SuiteProbe

MOST_BYTES = 20_000_000  # of a source
TRACE = re.compile(r"tr-[0-9a-f]{32}")


class Conversation(NamedTuple):
    """What was asked, with which tools, and the answer that went wrong, if it is known."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    answer: str | None


def conversation(source: str, row: int | None = None) -> Conversation:
    """Return the conversation of a file (JSON, or JSON lines, of which `row` says which, from 0), of a
    trace in MLflow, or of standard input (`-`). Raises NoIncident for what is none."""
    if TRACE.fullmatch(source):
        return _of_row(_traced(source), source)
    rows = _rows(_text(source), source)
    if row is None and len(rows) != 1:
        raise NoIncident(f"{source} has {len(rows):,} rows; say which by --row, from 0")
    if not 0 <= (row or 0) < len(rows):
        raise NoIncident(
            f"{source} has no row {row}, but {len(rows):,}, from 0; choose one of them"
        )
    return _of_row(rows[row or 0], source)


def _text(source: str) -> str:
    if source == "-":
        data = sys.stdin.buffer.read(MOST_BYTES + 1)
    else:
        path = Path(source).expanduser()
        if not path.is_file():
            raise NoIncident(
                f"no file is at {source!r:.200} (looked in {Path.cwd()}); give a JSON file, - for "
                f"standard input, or the id of a trace, tr- and 32 hex digits"
            )
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise NoIncident(f"{source} has more than {MOST_BYTES:,} bytes; give the row alone")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise NoIncident(
            f"{source} is not UTF-8 (byte {error.start:,}); save it as UTF-8"
        ) from None


def _rows(text: str, source: str) -> list[Any]:
    """Return the rows of a text: a JSON list of them or one, or JSON lines. A list of messages is one."""
    try:
        try:
            value = json.loads(text)
        except ValueError:
            return [json.loads(line) for line in text.split("\n") if line.strip()]
    except (ValueError, RecursionError) as error:
        raise NoIncident(f"{source} is neither JSON nor JSON lines ({error!s:.200})") from None
    is_rows = isinstance(value, list) and not are_messages(value)
    return value if is_rows else [value]


def _of_row(row: Any, source: str) -> Conversation:
    """Return a row's conversation. OpenAI's form is kept with its tools; any other shape is read as the
    rows of a dataset are."""
    if isinstance(row, list):
        row = {"messages": row}
    messages, tools = native(row) or (_read(row, source), [])
    answer = None
    if messages[-1]["role"] == "assistant":
        answer = _said(messages[-1])
        messages = messages[:-1]
    if not messages:
        raise NoIncident(f"{source} has an answer and no question; give the whole conversation")
    return Conversation(messages, tools, answer)


def _read(row: Any, source: str) -> list[dict[str, Any]]:
    from tasks.fetch.conversations import read_row

    reading = read_row(row)
    if not reading.messages:
        raise NoIncident(f"{source} has no conversation: {reading.problem or 'it is empty'}")
    return [{"role": role, "content": content} for role, content, *_ in reading.messages]


def _said(message: dict[str, Any]) -> str:
    """Return an answer as text; calls of tools as templates of several families write them."""
    calls = [call.get("function", call) for call in message.get("tool_calls", ())]
    written = [f"<tool_call>{json.dumps(call, ensure_ascii=False)}</tool_call>" for call in calls]
    return "\n".join(text for text in (message["content"], *written) if text)


# Traces.


def _traced(trace_id: str) -> dict[str, Any]:
    """Return the row of a trace: what was asked, and the answer. Raises NoIncident."""
    from mlflow.exceptions import MlflowException

    from flows import local
    from retune.tracking import client, exists, tracking_uri

    local.configure()
    try:
        if not exists():
            raise NoIncident(f"there is no MLflow store at {tracking_uri()} with traces")
        trace = client().get_trace(trace_id, display=False)
    except MlflowException as error:
        raise NoIncident(
            f"MLflow ({tracking_uri()}) has no trace {trace_id}: {error.message:.200}"
        ) from None
    request, response = parsed(trace.data.request), parsed(trace.data.response)
    messages = asked(request)
    if not messages:
        raise NoIncident(
            f"the request of {trace_id} is no conversation: {request!s:.80}; expected OpenAI's "
            f"`messages`, or a text"
        )
    answer = answered(response)
    tools = request.get("tools") if isinstance(request, dict) else None
    return {"messages": [*messages, *([answer] if answer else [])], "tools": tools}


# What must not be kept.


def require_no_secrets(case: SuiteProbe) -> None:
    """Raise NoIncident if a case holds a password or key: the file goes to git, and prompts to MLflow.

    Nothing is masked in it: a masked question is another one.
    """
    import polars as pl

    from expectations.data.credentials import has_secret

    texts = _texts(case)
    verdicts = has_secret(pl.Series(list(texts.values()), dtype=pl.String))
    places = [name for name, verdict in zip(texts, verdicts, strict=True) if verdict is not False]
    if places:
        raise NoIncident(
            f"{', '.join(places)}: this may be a password or key, which a file of incidents must not "
            f"keep; put an invented one in its place (of one that was said: the words around it)"
        )


def hidden_elsewhere(case: SuiteProbe) -> list[str]:
    """Return where a case seems to hold what belongs to a person, or a secret: reports mask it."""
    import polars as pl

    from expectations.data.masking import masked

    texts = _texts(case)
    safe = masked(pl.Series(list(texts.values()), dtype=pl.String))
    return [name for (name, text), mask in zip(texts.items(), safe, strict=True) if mask != text]


def _texts(case: SuiteProbe) -> dict[str, str]:
    """Return all texts of a case, by what they are called."""
    note = case.incident
    return {
        **{
            f"message {number}": "\n".join(map(str, (one.content or "", *one.tool_calls)))
            for number, one in enumerate(case.messages)
        },
        "the tools": json.dumps(case.tools, ensure_ascii=False),
        "what is demanded": json.dumps(case.grading, ensure_ascii=False),
        "the answer": (note and note.answer) or "",
        "the reason": (note and note.reason) or "",
    }
