"""Which tokens of a conversation are learned: the labels of supervised fine-tuning."""

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from retune.chat import END

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100  # the label that PyTorch's cross entropy leaves out
HEADER = re.compile(r"<\|im_start\|>(.*?)\n", re.DOTALL)
HEADER_TOKENS = 32  # at most in a header; `<|im_start|>` alone may be ten tokens


def labels_of(ids: list[int], tokenizer: "PreTrainedTokenizerBase", train_on: str) -> list[int]:
    """Return what each token of one conversation is trained to be predicted as, or IGNORED.

    `all`: every token but the first, which nothing predicts. `responses`: the assistant's turns
    with the `<|im_end|>` that ends each; a token that a turn shares with its header is ignored.
    """
    if train_on == "all":
        return [IGNORED, *ids[1:]]
    end = tokenizer.convert_tokens_to_ids(END)
    labels = [IGNORED] * len(ids)
    start = 0
    while start < len(ids):
        stop = ids.index(end, start) + 1 if end in ids[start:] else len(ids)
        role, content = _header(tokenizer, ids[start:stop])
        if role == "assistant":
            labels[start + content : stop] = ids[start + content : stop]
        start = stop
    return labels


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
