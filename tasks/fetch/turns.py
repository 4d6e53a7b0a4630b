"""A list of turns as messages, whoever wrote it: one by one, in rounds, or as columns of their own."""

from collections import Counter
from itertools import groupby
from typing import Any, NamedTuple

from tasks.fetch.contents import OTHER_KINDS, Content, learn_of, read_content, with_reasoning
from tasks.fetch.shape import CALL_KEYS, CALL_ROLES, LEARN_KEYS, SHAPE, Shape
from tasks.fetch.tool_calls import Message, called_in, unused_keys, with_calls
from tasks.fetch.values import Unreadable, as_text, kind_of, parse_json, shown

# Keys of a round, which is a question and its answer at once: ms-swift's, XTuner's.
_ASKED = ("human", "user", "input", "query", "question")
_ANSWERED = ("assistant", "gpt", "bot", "output", "response", "answer")
KEYS_OF_ROUNDS = {*_ASKED, *_ANSWERED, "system"}


class Turn(NamedTuple):
    """One message, and what joins it to others: the ids of its calls, whether it is nothing but calls,
    and the id of the call that it answers."""

    message: Message
    calls: tuple[str | None, ...] = ()
    is_bare: bool = False
    answers: str | None = None


def from_turns(turns: Any, what: str, unused: Counter[str]) -> list[Message]:
    """Return the messages of a list of turns, or of its JSON text, which is what CSV files carry.

    Keys of turns that nothing is made of are counted in `unused`. Raises Unreadable.
    """
    shape, turns = SHAPE.get(), _listed(turns, what)
    if (messages := _if_plain(turns, shape)) is not None:
        return messages
    parts: list[Turn] = []
    for number, turn in enumerate(turns):
        parts += _read(turn, f"message {number} of {what}", shape, unused)
    if any(part.calls for part in parts):
        parts = _joined(parts)
    return [part.message for part in parts]


def _if_plain(turns: list[Any], shape: Shape) -> list[Message] | None:
    """Return what most turns are, a role and a text each and nothing else, at a third of the cost; None
    if one of them is more."""
    if shape.columns or shape.ignore:
        return None
    messages = []
    for turn in turns:
        if type(turn) is not dict or len(turn) != 2:
            return None
        role, content = turn.get("role"), turn.get("content")
        if role is None and content is None:
            role, content = turn.get("from"), turn.get("value")
        if type(role) is not str or type(content) is not str:
            return None
        name = role.lower()
        if name in CALL_ROLES:
            return None
        messages.append(Message(shape.roles.get(name, role), content))
    return messages


def _listed(turns: Any, what: str) -> list[Any]:
    """Return turns as a list of objects, if it is one in any notation."""
    if isinstance(turns, str | bytes):
        text = as_text(turns, what)
        if text.lstrip()[:3] in ("[{'", "{'r", "{'f"):
            raise Unreadable(
                f"{what} is in Python's notation, not JSON: {shown(text)}; write it by json.dumps"
            )
        turns = parse_json(text, what)
    if isinstance(turns, dict):
        turns = _unzipped(turns)
    if not isinstance(turns, list):
        raise Unreadable(f"{what} is {kind_of(turns)}, not a list of messages: {shown(turns)}")
    if turns and all(isinstance(turn, list) for turn in turns):
        return _from_lists(turns, what)
    return turns


def _unzipped(columns: dict[str, Any]) -> Any:
    """Return the turns of a struct of lists, as Parquet stores a list of structs that `datasets` read;
    the value as it is if it is none."""
    lists = {name: values for name, values in columns.items() if isinstance(values, list)}
    lengths = {len(values) for values in lists.values()}
    if len(lists) < 2 or len(lists) < len(columns) or len(lengths) != 1:
        return columns
    return [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]


def _from_lists(turns: list[list[Any]], what: str) -> list[dict[str, Any]]:
    """Return the turns of [[role, text], …] or of rounds, [[question, answer], …]."""
    if not all(len(turn) == 2 and all(isinstance(t, str) for t in turn) for turn in turns):
        raise Unreadable(f"{what} is lists of lists, but not of two texts each: {shown(turns[0])}")
    roles = SHAPE.get().roles
    named = [turn[0].strip().lower() in roles for turn in turns]
    if all(named):
        return [{"role": role, "content": text} for role, text in turns]
    if any(named):
        raise Unreadable(f"{what} is lists of which some begin with a role and some do not")
    return [{"user": question, "assistant": answer} for question, answer in turns]


def _read(turn: Any, where: str, shape: Shape, unused: Counter[str]) -> list[Turn]:
    """Return one turn of ShareGPT (`from`, `value`), OpenAI (`role`, `content`) or between them, or the
    messages of a round; a message with results of tools is several."""
    if not isinstance(turn, dict):
        raise Unreadable(f"{where} is {kind_of(turn)}, not an object: {shown(turn)}")
    turn = {key: v for key, v in turn.items() if v is not None}
    unused.update(turn.keys() & shape.ignore)  # whether that is warned of is the judge's to say
    turn = {key: v for key, v in turn.items() if key not in shape.ignore}
    role = next((turn[key] for key in shape.role_keys if key in turn), None)
    content = next((turn[key] for key in shape.content_keys if key in turn), None)
    if role is None and _is_round(turn):
        return _of_round(turn, where, unused)
    if role is None:
        names = " (or `from`)" if len(shape.role_keys) > 1 else ""
        raise Unreadable(f"{where} has no `{shape.role_keys[0]}`{names}: {shown(turn)}")
    if not isinstance(role, str):
        raise Unreadable(f"the role of {where} is {kind_of(role)}, not text: {shown(role)}")
    ours = shape.roles.get(role.lower(), role)
    unused.update(turn.keys() - shape.known_keys)
    unused.update(key for key in shape.content_keys if turn.get(key, content) != content)
    return _with_parts(turn, ours, role.lower() in CALL_ROLES, content, where, unused)


def _with_parts(
    turn: dict[str, Any],
    role: str,
    is_call: bool,
    content: Any,
    where: str,
    unused: Counter[str],
) -> list[Turn]:
    shape = SHAPE.get()
    calls = _calls(turn, where)
    unused.update(key for call in calls for key in unused_keys(call))
    if is_call and (called := called_in(content)):
        content, calls = None, [*called, *calls]
    elif content is None and not calls:
        names = " (or `value`)" if len(shape.content_keys) > 1 else ""
        raise Unreadable(f"{where} has no `{shape.content_keys[0]}`{names}: {shown(turn)}")
    parts = Content() if content is None else read_content(content, f"the content of {where}")
    calls = [*calls, *parts.calls]
    reasoning = parts.reasoning
    for key in shape.reasoning_keys:
        if key not in turn:
            continue
        if role == "assistant" and isinstance(turn[key], str) and not reasoning:
            reasoning = turn[key]
        elif turn[key] != reasoning:
            unused[key] += 1
    unused.update(key for key in LEARN_KEYS if isinstance(turn.get(key), OTHER_KINDS))
    learn = False if learn_of(turn, where) is False else parts.learn
    results = [
        Turn(Message("tool", result.text, learn), answers=result.answers)
        for result in parts.results
    ]
    if results and not (parts.text or calls or reasoning):
        return results
    text = with_reasoning(with_calls(parts.text, calls, where), reasoning)
    answers = turn.get("tool_call_id")
    said = Turn(
        Message(role, text, learn),
        tuple(_id(call) for call in calls),
        bool(calls) and not parts.text and not reasoning,
        answers if isinstance(answers, str) else None,
    )
    return [*results, said]


def _is_round(turn: dict[str, Any]) -> bool:
    return any(key in turn for key in _ASKED) and any(key in turn for key in _ANSWERED)


def _of_round(turn: dict[str, Any], where: str, unused: Counter[str]) -> list[Turn]:
    asked = next(key for key in _ASKED if key in turn)
    answered = next(key for key in _ANSWERED if key in turn)
    keys = {"system": "system", asked: "user", answered: "assistant"}
    unused.update(turn.keys() - keys.keys())
    texts = {key: as_text(turn[key], f"`{key}` of {where}") for key in keys if key in turn}
    return [
        Turn(Message(keys[key], text)) for key, text in texts.items() if text or key != "system"
    ]


def _calls(turn: dict[str, Any], where: str) -> list[Any]:
    """Return a turn's tool calls, with OpenAI's older `function_call` as one of them."""
    calls = turn.get(CALL_KEYS[0], [])
    if isinstance(calls, str) and calls.strip():
        calls = parse_json(calls, f"`tool_calls` of {where}")
    calls = calls or []
    if not isinstance(calls, list):
        raise Unreadable(f"`tool_calls` of {where} is {kind_of(calls)}, not a list: {shown(calls)}")
    return [*calls, turn["function_call"]] if turn.get("function_call") else calls


def _id(call: Any) -> str | None:
    found = call.get("id") if isinstance(call, dict) else None
    return found if isinstance(found, str) else None


def _joined(turns: list[Turn]) -> list[Turn]:
    """Make one message of calls that follow each other, and put results in the order of their calls:
    a call says by its place alone which result is its own."""
    joined: list[Turn] = []
    for turn in turns:
        last = joined[-1] if joined else None
        if last and turn.is_bare and _is_alike(last.message, turn.message):
            content = "\n".join(filter(None, (last.message.content, turn.message.content)))
            message = last.message._replace(content=content)
            joined[-1] = Turn(message, (*last.calls, *turn.calls), last.is_bare)
        else:
            joined.append(turn)
    ordered: list[Turn] = []
    for is_tool, group in groupby(joined, lambda turn: turn.message.role == "tool"):
        results = list(group)
        asked = ordered[-1].calls if is_tool and ordered else ()
        answered = [turn.answers for turn in results]
        if len(set(answered)) == len(answered) and set(answered) <= set(asked) - {None}:
            results.sort(key=lambda turn: asked.index(turn.answers))
        ordered += results
    return ordered


def _is_alike(first: Message, second: Message) -> bool:
    """Tell whether two messages are one person's, and both are to be learnt or not."""
    return first.role == second.role == "assistant" and first.learn == second.learn
