"""A row of any known format as a conversation: the reference, in plain Python.

`tasks.fetch.columns` does the same to whole columns of plain rows; a test holds that both agree.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from tasks.fetch.contents import with_reasoning
from tasks.fetch.segments import from_segments
from tasks.fetch.shape import (
    MEDIA_COLUMNS,
    PAIRS,
    PREFERENCE_COLUMNS,
    SEGMENTS,
    SHAPE,
    SPLIT_GROUP,
    SYSTEM_COLUMNS,
    TOOL_COLUMNS,
    TURN_COLUMNS,
    VERDICT_COLUMNS,
    PairLayout,
)
from tasks.fetch.tool_calls import Message, with_tools
from tasks.fetch.turns import from_turns
from tasks.fetch.values import (
    MULTIMODAL,
    Unreadable,
    as_label,
    as_number,
    as_text,
    kind_of,
    parse_json,
    shown,
)

EXPECTED = (
    "expected `conversations` (ShareGPT), `messages` (OpenAI), `instruction` and `output` (Alpaca), or "
    "`prompt` and `completion`"
)
PREFERENCE_PAIR = (
    "the row is a preference pair (`chosen` and `rejected`), which DPO and ORPO train on, and no "
    "conversation"
)
_NOTHING: tuple[Any, ...] = (None, "", [])
_DIGEST = re.compile("[0-9a-f]{16}")


class Reading(NamedTuple):
    """What was read from a row: its messages, or the `problem` that kept them from being read.

    `verdicts` are what columns of KTO's names hold, `split_group` a digest of the group that goes to one
    side of the split together. `columns` are the names of those of its columns, and
    `keys` of its messages' keys with their counts, that nothing was made of.
    """

    messages: list[Message] | None
    source: str | None
    score: float | None
    format: str | None
    problem: str | None
    verdicts: Mapping[str, Any] = MappingProxyType({})
    columns: tuple[str, ...] = ()
    keys: Mapping[str, int] = MappingProxyType({})
    split_group: str | None = None


def read_row(row: Any) -> Reading:
    """Return the content of a row. Never raises: a row that cannot be read has a `problem`.

    `row` is a JSON value, or the Unreadable that represents one. Null is the same as absent.
    """
    if isinstance(row, Unreadable):
        return Reading(None, None, None, None, str(row))
    if not isinstance(row, dict):
        problem = f"the row is {kind_of(row)}, not an object: {_attempt(shown, row)[0]}"
        return Reading(None, None, None, None, problem)
    row = {name: value for name, value in row.items() if value is not None}
    present, rest = SHAPE.get().renamed(row)
    layout = layout_of(present)
    conversation = _Conversation(present, layout, list(row))
    messages, row_problem = _attempt(conversation.read)
    score, score_problem = _attempt(as_number, present.get("score"), SHAPE.get().shown("score"))
    source, source_problem = _attempt(as_label, present.get("source"))
    verdicts = {name: present[name] for name in VERDICT_COLUMNS if name in present}
    if reason := row_problem or score_problem or source_problem:
        return Reading(None, source, score, format_of(layout), reason, verdicts)
    unused = (*rest, *(name for name in present if name not in conversation.used))
    keys = conversation.unused_keys
    group = _group(present.get(SPLIT_GROUP))
    return Reading(messages, source, score, format_of(layout), None, verdicts, unused, keys, group)


def _group(value: Any) -> str | None:
    """Return a digest of a group's name: names of groups are often those of people, and nothing but
    whether two are the same is ever asked. What is such a digest stays, and the group on its side."""
    name = as_label(value)
    if not name or _DIGEST.fullmatch(name):
        return name or None
    return hashlib.blake2b(name.encode("utf-8", "replace"), digest_size=8).hexdigest()


def layout_of(columns: dict[str, Any]) -> str | PairLayout | None:
    """Return which of the columns hold the conversation: a column of turns, a pair, segments, or None.

    Of several columns of turns, the first that is not an empty list.
    """
    turns = [column for column in TURN_COLUMNS if column in columns]
    for column in turns:
        if not (isinstance(columns[column], list) and not columns[column]):
            return column
    if turns:
        return turns[0]
    pairs = (pair for pair in PAIRS if {pair.question, pair.answer} <= columns.keys())
    return next(pairs, SEGMENTS if SEGMENTS in columns else None)


def known_columns(row: dict[str, Any]) -> dict[str, Any]:
    """Return what `layout_of` goes by of a row whose columns have the source's names."""
    return SHAPE.get().renamed(row)[0]


def format_of(layout: str | PairLayout | None) -> str | None:
    """Return the format's name in `retune.records.Rows`."""
    if isinstance(layout, PairLayout):
        return layout.format
    return "input_output" if layout == SEGMENTS else TURN_COLUMNS.get(layout or "")


def _attempt(function: Callable[..., Any], *arguments: Any) -> tuple[Any, str | None]:
    """Return what a function returns and None, or None and why it could not."""
    try:
        return function(*arguments), None
    except Unreadable as problem:
        return None, str(problem)
    except RecursionError:
        return None, "the row is nested too deeply"


class _Conversation:
    """The conversation in a row's columns, by our names; `used` are those that it was made of."""

    def __init__(
        self, row: dict[str, Any], layout: str | PairLayout | None, names: list[str]
    ) -> None:
        self._row, self._layout, self._names = row, layout, names
        # What holds none of these would have been refused.
        self.used = {"source", "score", SPLIT_GROUP, *MEDIA_COLUMNS, *VERDICT_COLUMNS}
        self.unused_keys: Counter[str] = Counter()

    def read(self) -> list[Message]:
        """Return the messages. Raises Unreadable, for rows that are no conversation saying so."""
        self._require_text()
        is_preference = set(PREFERENCE_COLUMNS) <= self._row.keys()
        try:
            messages = self._messages()
        except Unreadable:
            if is_preference:
                raise Unreadable(PREFERENCE_PAIR) from None
            raise
        # Such a row may hold a whole conversation next to the pair, or only the question to it.
        if is_preference and (not messages or messages[-1].role != "assistant"):
            raise Unreadable(PREFERENCE_PAIR)
        return _with_mid_system(messages, SHAPE.get().mid_system)

    def _require_text(self) -> None:
        if self._row.keys().isdisjoint(MEDIA_COLUMNS):
            return
        for column in MEDIA_COLUMNS:
            if self._row.get(column) not in _NOTHING:
                raise Unreadable(f"{MULTIMODAL}: it has `{column}`")

    def _messages(self) -> list[Message]:
        row, layout = self._row, self._layout
        if layout is None:
            raise Unreadable(_why_no_layout(row, self._names))
        messages = (
            self._from_pair(layout) if isinstance(layout, PairLayout) else self._from_turns(layout)
        )
        for column in SYSTEM_COLUMNS:
            if column not in row:
                continue
            text = as_text(row[column], SHAPE.get().shown(column))
            if text and not any(one.role == "system" for one in messages):
                messages = [Message("system", text), *messages]
                self.used.add(column)
            elif not text or messages[0].content == text:
                self.used.add(column)
        for column in TOOL_COLUMNS:
            if column in row:
                messages = with_tools(messages, row[column])
                self.used.add(column)
        return messages

    def _from_turns(self, layout: str) -> list[Message]:
        """Return the messages of the row's column of turns; raises Unreadable if another one says
        something else."""
        row, shape = self._row, SHAPE.get()
        self.used.add(layout)
        read = from_segments if layout == SEGMENTS else from_turns
        messages = read(row[layout], shape.shown(layout), self.unused_keys)
        for other in TURN_COLUMNS:
            if other == layout or other not in row or row[other] == []:
                continue
            if _attempt(from_turns, row[other], other, Counter[str]())[0] != messages:
                raise Unreadable(
                    f"`{layout}` and `{other}` say different things: choose one by "
                    f"dataset.columns={{messages: {layout}}} or {{messages: {other}}}"
                )
            self.used.add(other)
        return messages

    def _from_pair(self, pair: PairLayout) -> list[Message]:
        """Return question and answer, each text or, as TRL has them, a list of messages."""
        row, shape = self._row, SHAPE.get()
        question, answer = row[pair.question], row[pair.answer]
        self.used |= {pair.question, pair.answer}
        if isinstance(question, list):
            messages = from_turns(question, shape.shown(pair.question), self.unused_keys)
        else:
            self.used |= {"history", *pair.contexts}
            asked = Message("user", self._question(pair))
            messages = [*_history(row.get("history")), asked]
        if isinstance(answer, list):
            return messages + from_turns(answer, shape.shown(pair.answer), self.unused_keys)
        text = as_text(answer, shape.shown(pair.answer))
        if "reasoning" in row:
            self.used.add("reasoning")
            text = with_reasoning(text, as_text(row["reasoning"], shape.shown("reasoning")))
        return [*messages, Message("assistant", text)]

    def _question(self, pair: PairLayout) -> str:
        texts = [
            as_text(self._row.get(column, ""), SHAPE.get().shown(column))
            for column in (pair.question, *pair.contexts)
        ]
        return "\n\n".join(text for text in texts if text)


def _why_no_layout(row: dict[str, Any], names: list[str]) -> str:
    for question in dict.fromkeys(pair.question for pair in PAIRS):
        if question in row:
            answers = [f"`{pair.answer}`" for pair in PAIRS if pair.question == question]
            return f"there is {SHAPE.get().shown(question)} but no {' or '.join(answers)}"
    return f"no usable columns among {shown([str(name) for name in names])}; {EXPECTED}"


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
        question, answer = (as_text(text, what) for text in rounds)
        messages += [Message("user", question), Message("assistant", answer)]
    return messages


def _with_mid_system(messages: list[Message], how: str) -> list[Message]:
    """Return the messages with the system messages that are not the first where the recipe wants them.

    Those that no user message follows stay.
    """
    if how == "refuse":
        return messages
    placed: list[Message] = []
    waiting: list[Message] = []
    for number, message in enumerate(messages):
        if message.role == "system" and number:
            if how == "system" and placed[0].role == "system":
                placed[0] = _led(placed[0], message)
            elif how == "system":
                placed.insert(0, message)
            else:
                waiting.append(message)
        elif message.role == "user" and waiting:
            placed.append(_led(*waiting, message))
            waiting = []
        else:
            placed.append(message)
    return [*placed, *waiting]


def _led(*messages: Message) -> Message:
    """Return the last message with the texts of the others in front; not to be learnt if one of them
    is not."""
    content = "\n\n".join(message.content for message in messages)
    learn = False if any(message.learn is False for message in messages) else messages[-1].learn
    return messages[-1]._replace(content=content, learn=learn)
