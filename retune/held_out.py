"""The held-out conversations: the questions a model is asked, and the text it is measured on.

Base model, tuned model and every quant are asked the same questions, chosen here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from retune.chat import END, START
from retune.recipe import Quantization

if TYPE_CHECKING:
    import polars as pl

# Longer answers are not the same twice, however right: of these an exact match says nothing, unless
# a model gets some.
VERIFIABLE_CHARACTERS = 80
SOME_MATCHES = 0.05


@dataclass(frozen=True)
class Question:
    """A held-out conversation without its last turn; `expected` is that turn's text.

    `prompt` is a list of messages (`role`, `content`), `family` the row's source. `rendered` is the
    turn as the chat template writes it, which is what a model learns to say: Qwen3's puts an empty
    block of reasoning before each answer.
    """

    row: int
    family: str
    prompt: list[dict[str, str]]
    expected: str
    rendered: str = ""

    def matches(self, answer: str) -> bool:
        """Tell whether `answer` equals the expected text, or that as the template writes it."""
        return equal(answer, self.expected) or equal(answer, self.rendered or self.expected)


def verifiable(questions: Sequence[Question], right: float) -> bool:
    """Tell whether an exact match says something of answers of which the share `right` (0 to 1) is.

    Free text is not the same twice, however good: of it only a model that gets some is measured.
    """
    length = median(len(question.expected) for question in questions)
    return length <= VERIFIABLE_CHARACTERS or right >= SOME_MATCHES


def equal(answer: str, expected: str) -> bool:
    """Tell whether two texts are an exact match: white space at their ends aside, the same."""
    return answer.strip() == expected.strip()


def questions(held_out: Path, limit: int, max_length: int) -> list[Question]:
    """Return up to `limit` questions from `held_out.parquet`, spread evenly over the families.

    Conversations whose last answer must not be learnt are left out: nobody is to say it. The choice
    depends on the file alone: each family's first rows, in turns, of those that fit into `max_length`
    tokens. What is longer the model has only seen the beginning of, and an engine's context may end
    before the question does.
    """
    import polars as pl

    rows = (
        pl.scan_parquet(held_out)
        .filter(pl.col("input_ids").list.len() <= max_length)
        .select("row", "source", "messages", "text")
        .filter(_is_to_be_said(held_out))
        .with_columns(turn=pl.int_range(pl.len()).over("source"))
        .sort("turn", "source", maintain_order=True)
        .head(limit)
        .collect()
    )
    return [
        Question(row, family, _said(messages[:-1]), messages[-1]["content"], _last_turn(text))
        for row, family, messages, text, _ in rows.iter_rows()
    ]


def _is_to_be_said(held_out: Path) -> "pl.Expr":
    """Tell of each row whether its last message may be learnt; older files have no mark of it."""
    import polars as pl

    messages = pl.read_parquet_schema(held_out)["messages"]
    assert isinstance(messages, pl.List)
    if "learn" not in {field.name for field in messages.inner.fields}:  # type: ignore[union-attr]
        return pl.lit(True)
    return pl.col("messages").list.last().struct.field("learn").fill_null(True)


def _said(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """Return messages as a chat template and a server take them."""
    return [{"role": message["role"], "content": message["content"]} for message in messages]


def _last_turn(text: str) -> str:
    """Return the assistant's last turn of a conversation in ChatML, "" if it is written otherwise."""
    _, header, turn = text.rpartition(f"{START}assistant\n")
    return turn.partition(END)[0] if header else ""


def sources(held_out: Path, limit: int) -> list[str]:
    """Return the families of the first `limit` rows."""
    import polars as pl

    return pl.scan_parquet(held_out).select("source").head(limit).collect()["source"].to_list()


def held_out_rows(held_out: Path, limit: int) -> list[tuple[str, list[dict[str, str]]]]:
    """Return the family and the messages of each of the first `limit` rows."""
    import polars as pl

    rows = pl.scan_parquet(held_out).select("source", "messages").head(limit).collect()
    return [(family, _said(messages)) for family, messages in rows.iter_rows()]


def measured_rows(held_out: Path, config: Quantization) -> int:
    """Return on how many of the first rows quants are measured; an importance matrix is made of
    rows behind these, so that no quant is measured on what it was fitted to."""
    import polars as pl

    rows = pl.scan_parquet(held_out).select(pl.len()).collect().item()
    return min(config.perplexity_rows, rows // 2 if config.calibrates else rows)


def token_count(held_out: Path, limit: int) -> int:
    """Return the number of tokens in the first `limit` conversations."""
    import polars as pl

    ids = pl.scan_parquet(held_out).select("input_ids").head(limit)
    return ids.select(pl.col("input_ids").list.len().sum()).collect().item()


def text(held_out: Path, first: int, limit: int) -> str:
    """Return the ChatML of up to `limit` held-out conversations from row `first` on, in one piece."""
    import polars as pl

    return "".join(pl.scan_parquet(held_out).select("text").slice(first, limit).collect()["text"])
