"""Which token ids are of messages that must not be learnt.

A chat template writes turns, not messages: it may begin with a system turn of its own, or write the
results of tools into one turn of the user. The assistant's messages are its turns, one by one; a row in
which they are not is refused. Of what stands between two of these, more may be left out of the learning
than was asked for, never less.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from retune.chat import ChatFormatError
from retune.labels import TurnSpan, turn_spans

if TYPE_CHECKING:
    import polars as pl
    from transformers import PreTrainedTokenizerBase

Chat = list[dict[str, Any]]


def plain(messages: Chat) -> list[dict[str, str]]:
    """Return messages as a chat template takes them."""
    return [{"role": message["role"], "content": message["content"]} for message in messages]


def unlearned_spans(
    rows: "pl.DataFrame", ids: list[list[int]], tokenizer: "PreTrainedTokenizerBase"
) -> list[list[int]]:
    """Return for each row the spans of its ids that must not be learnt (see `retune.labels.TokenRow`).

    `rows` has `row` and `messages`. Raises ChatFormatError as the module says.
    """
    spans: list[list[int]] = [[] for _ in ids]
    for at in _marked(rows):
        messages = rows["messages"][at].to_list()
        try:
            spans[at] = spans_of(messages, list(turn_spans(ids[at], tokenizer)))
        except ValueError as error:
            raise ChatFormatError(
                f"row {rows['row'][at]} has a message that must not be learnt, which cannot be told from "
                f"the others: {error}; remove the row, or choose a base with another chat template"
            ) from None
    return spans


def spans_of(messages: Chat, turns: Sequence[TurnSpan]) -> list[int]:
    """Return the spans of a conversation's turns that hold a message with `learn` false.

    Raises ValueError if the assistant's turns are not its messages.
    """
    said, written = _sections(messages, "role"), _sections(turns, "role")
    if len(said) != len(written):
        raise ValueError(
            f"the chat template writes {len(written) - 1} turns of the assistant for "
            f"{len(said) - 1} messages"
        )
    spans: list[int] = []
    for own, others in zip(said, written, strict=True):
        *own_before, own_answer = own
        *turns_before, answer_turn = others
        spans += _between(own_before, turns_before)
        if own_answer is not None and own_answer.get("learn") is False:
            spans += [answer_turn.start, answer_turn.stop]
    return spans


def _marked(rows: "pl.DataFrame") -> list[int]:
    """Return the numbers of the rows with a message that must not be learnt."""
    import polars as pl

    kind = rows.schema["messages"]
    assert isinstance(kind, pl.List)
    assert isinstance(kind.inner, pl.Struct)
    if "learn" not in {field.name for field in kind.inner.fields}:
        return []
    learn = pl.element().struct.field("learn").eq(False).fill_null(False)
    return (
        rows.select(pl.col("messages").list.eval(learn).list.any()).to_series().arg_true().to_list()
    )


def _sections(parts: Sequence[Any], key: str) -> list[list[Any]]:
    """Return the parts cut behind each of the assistant's; the last section ends with None."""
    sections: list[list[Any]] = [[]]
    for part in parts:
        role = part[key] if isinstance(part, dict) else getattr(part, key)
        sections[-1].append(part)
        if role == "assistant":
            sections.append([])
    sections[-1].append(None)
    return sections


def _between(messages: Chat, turns: Sequence[TurnSpan]) -> list[int]:
    """Return the spans of turns that are not the assistant's: of their messages' own where there is one
    for each, else of all."""
    marked = [message.get("learn") is False for message in messages]
    if not any(marked):
        return []
    if len(messages) != len(turns):
        marked = [True] * len(turns)
    pairs = [
        (turn.start, turn.stop) for turn, is_marked in zip(turns, marked, strict=True) if is_marked
    ]
    return [place for pair in pairs for place in pair]
