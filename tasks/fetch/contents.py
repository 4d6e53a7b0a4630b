"""The content of one message: text, or parts of text, reasoning, calls of tools and their results."""

from typing import Any, NamedTuple

from tasks.fetch.shape import LEARN_KEYS
from tasks.fetch.values import (
    TEXT_PARTS,
    Unreadable,
    as_text,
    kind_of,
    parse_json,
    part_text,
    shown,
)

_REASONING_PARTS = ("thinking", "reasoning")  # Anthropic's, LLaMA-Factory's
OTHER_KINDS = (str, bytes, list, dict)  # of values that say nothing of whether a message is learnt
_OPEN, _CLOSE = "<think>", "</think>"


class Result(NamedTuple):
    """What a tool gave back, and the id of the call that it answers, if it says so."""

    text: str
    answers: str | None


class Content(NamedTuple):
    """What is in a message; `learn` is False if its parts say that it is not to be learnt."""

    text: str = ""
    reasoning: str = ""
    calls: tuple[Any, ...] = ()
    results: tuple[Result, ...] = ()
    learn: bool | None = None


def read_content(content: Any, what: str) -> Content:
    """Return a message's content, read as OpenAI, Anthropic and LLaMA-Factory mean it.

    Raises Unreadable for what is no text, and for parts of which some are to be learnt and some not.
    """
    if not isinstance(content, list):
        return Content(as_text(content, what))
    texts, reasoning, calls, results = [], [], [], []
    flags = set()
    for number, part in enumerate(content):
        where = f"part {number} of {what}"
        kind = part.get("type", "text") if isinstance(part, dict) else "text"
        if kind in _REASONING_PARTS:
            reasoning.append(_reasoning(part, kind, where))
        elif kind == "tool_use":
            calls.append({**part, "arguments": part.get("input")})
        elif kind == "tool_call":
            calls.append(_call(part, where))
        elif kind == "tool_result":
            results.append(_result(part, where))
        else:
            texts.append(part_text(part, where))
        if isinstance(part, dict) and kind in (*TEXT_PARTS, *_REASONING_PARTS):
            flags.add(learn_of(part, where))
    if len(flags) > 1:
        raise Unreadable(
            f"some parts of {what} are to be learnt and some not: retune learns a message as a whole, "
            f"or not"
        )
    (learn,) = flags or {None}
    return Content("".join(texts), "\n".join(reasoning), tuple(calls), tuple(results), learn)


def with_reasoning(text: str, reasoning: str) -> str:
    """Return an answer with its reasoning in front, as the chat templates of reasoning models read and
    write it; an answer that has reasoning already stays."""
    reasoning = reasoning.strip("\n")
    if not reasoning.strip() or _CLOSE in text:
        return text
    return f"{_OPEN}\n{reasoning}\n{_CLOSE}\n\n{text}"


def learn_of(keys: dict[str, Any], where: str) -> bool | None:
    """Return False if a message, or a part of one, says that it is not to be learnt, else None.

    OpenAI says so by `weight`, Axolotl by `train` or `training`, ms-swift by `loss`, LLaMA-Factory by
    `loss_weight`. Raises Unreadable for what is neither yes nor no.
    """
    learn = None
    for key in LEARN_KEYS:
        value = keys.get(key)
        if value is None or isinstance(value, OTHER_KINDS):
            continue
        if value not in (0, 1):
            raise Unreadable(
                f"`{key}` of {where} is {shown(value)}: retune learns a message (1) or not (0)"
            )
        if not value:
            learn = False
    return learn


def _reasoning(part: dict[str, Any], kind: str, where: str) -> str:
    text = part.get(kind, part.get("value", part.get("text")))
    if not isinstance(text, str):
        raise Unreadable(f"{where} has no text of its {kind}: {shown(part)}")
    return text


def _call(part: dict[str, Any], where: str) -> Any:
    value = part.get("value", part.get("tool_call"))
    return parse_json(value, where) if isinstance(value, str) else value or part


def _result(part: dict[str, Any], where: str) -> Result:
    content, answers = part.get("content", ""), part.get("tool_use_id")
    if not isinstance(content, str | list):
        raise Unreadable(f"the content of {where} is {kind_of(content)}, not text")
    return Result(as_text(content, where), answers if isinstance(answers, str) else None)
