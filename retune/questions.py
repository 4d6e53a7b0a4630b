"""What a conversation asks: what tells it from others, whatever is answered."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

ASSISTANT = "assistant"
_BETWEEN = "\x1e"  # of messages in one text: it stands in none


def first_question() -> "pl.Expr":
    """Return the first text of the user in `messages`, in lower case and with single spaces: by it a
    conversation is put on one side of the split between training and held-out rows."""
    question = first_text().str.to_lowercase()
    return question.str.replace_all(r"\s+", " ").str.strip_chars()


def first_text() -> "pl.Expr":
    """Return the first text of the user in `messages` as it is, "" if there is none."""
    import polars as pl

    message = pl.element().struct
    user_texts = pl.col("messages").list.eval(
        message.field("content").filter(message.field("role") == "user")
    )
    return user_texts.list.first().fill_null("")


def asked() -> "pl.Expr":
    """Return all that is not the assistant's in `messages`, as one text."""
    return _said(by_assistant=False)


def answered() -> "pl.Expr":
    """Return all that the assistant says in `messages`, as one text."""
    return _said(by_assistant=True)


def _said(by_assistant: bool) -> "pl.Expr":
    import polars as pl

    message = pl.element().struct
    is_assistant = message.field("role") == ASSISTANT
    chosen = is_assistant if by_assistant else ~is_assistant
    texts = pl.col("messages").list.eval(
        message.field("content").fill_null("").str.strip_chars().filter(chosen)
    )
    return texts.list.join(_BETWEEN)
