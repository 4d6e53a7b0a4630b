"""Which tokens of a conversation are learned: the labels of supervised fine-tuning."""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from retune.chat import END

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100  # the label that PyTorch's cross entropy leaves out
HEADER = re.compile(r"<\|im_start\|>(.*?)\n", re.DOTALL)
HEADER_TOKENS = 32  # at most in a header; `<|im_start|>` alone may be ten tokens


class TokenRow(NamedTuple):
    """One conversation's token ids, and the spans of them that must not be learnt: where each begins
    and, behind it, where it ends, all in one list."""

    ids: list[int]
    unlearned: list[int]

    def labels(self, tokenizer: "PreTrainedTokenizerBase", train_on: str) -> list[int]:
        """Return what `labels_of` says of it."""
        return labels_of(self.ids, tokenizer, train_on, self.unlearned)


class TurnSpan(NamedTuple):
    """One turn of a conversation's token ids: from its first token to behind its last, and whose it is;
    `content` counts the tokens of its header."""

    role: str
    start: int
    stop: int
    content: int


def token_rows(rows: Path, limit: int, max_length: int) -> Iterator[TokenRow]:
    """Yield the first `limit` rows of a Parquet file, each cut to `max_length` tokens.

    It has columns `input_ids` and, unless nothing in it is not to be learnt, `unlearned`.
    """
    import pyarrow.parquet as pq

    with pq.ParquetFile(rows) as file:
        names = [name for name in ("input_ids", "unlearned") if name in file.schema_arrow.names]
        read = 0
        for batch in file.iter_batches(2000, columns=names):
            spans = batch["unlearned"].to_pylist() if "unlearned" in names else [None] * len(batch)
            for ids, unlearned in zip(batch["input_ids"].to_pylist(), spans, strict=True):
                if read == limit:
                    return
                read += 1
                yield TokenRow(ids[:max_length], unlearned or [])


def labels_of(
    ids: list[int],
    tokenizer: "PreTrainedTokenizerBase",
    train_on: str,
    unlearned: Sequence[int] = (),
) -> list[int]:
    """Return what each token of one conversation is trained to be predicted as, or IGNORED.

    `all`: every token but the first, which nothing predicts. `responses`: the assistant's turns
    with the `<|im_end|>` that ends each; a token that a turn shares with its header is ignored. In
    neither the spans `unlearned` (see `TokenRow`).
    """
    if train_on == "all":
        labels = [IGNORED, *ids[1:]]
    else:
        labels = [IGNORED] * len(ids)
        for turn in turn_spans(ids, tokenizer):
            if turn.role == "assistant":
                first = turn.start + turn.content
                labels[first : turn.stop] = ids[first : turn.stop]
    for start, stop in zip(unlearned[::2], unlearned[1::2], strict=True):
        end = min(stop, len(ids))  # of a row that was cut
        labels[start:end] = [IGNORED] * max(0, end - start)
    return labels


def turn_spans(ids: list[int], tokenizer: "PreTrainedTokenizerBase") -> Iterator[TurnSpan]:
    """Yield the turns of a conversation, each with the `<|im_end|>` that ends it."""
    end = tokenizer.convert_tokens_to_ids(END)
    start = 0
    while start < len(ids):
        stop = ids.index(end, start) + 1 if end in ids[start:] else len(ids)
        role, content = _header(tokenizer, ids[start:stop])
        yield TurnSpan(role, start, stop, content)
        start = stop


def _header(tokenizer: "PreTrainedTokenizerBase", turn: list[int]) -> tuple[str, int]:
    """Return a turn's role and where its content begins; ("", 0) if it has no header."""
    for count in range(1, min(len(turn), HEADER_TOKENS) + 1):
        header = HEADER.search(_decoded(tokenizer, tuple(turn[:count])))
        if header:
            return header[1], count
    return "", 0


@lru_cache(maxsize=1 << 16)  # headers are alike, so nearly every lookup is a hit
def _decoded(tokenizer: "PreTrainedTokenizerBase", ids: tuple[int, ...]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=False))


def shown(pack: dict[str, Any], tokenizer: "PreTrainedTokenizerBase") -> str:
    """Return one pack as text, with ⟦what is not trained on⟧ in brackets."""
    pieces: list[tuple[bool | None, str]] = []
    group: list[int] = []
    masked: bool | None = None
    for token, label in zip(pack["input_ids"], pack["labels"], strict=True):
        if (label == IGNORED) != masked and group:
            pieces.append((masked, str(tokenizer.decode(group))))
            group = []
        masked = label == IGNORED
        group.append(token)
    pieces.append((masked, str(tokenizer.decode(group))))
    return "".join(f"⟦{text}⟧" if hidden else text for hidden, text in pieces)
