"""The rows of a dataset as training reads them and as llama.cpp does."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expectations.data.masking import mask
from retune import llamacpp
from retune.records import Chats

if TYPE_CHECKING:
    import numpy as np

ROWS = 10_000  # that are compared: held-out ones first, then training rows from the whole of them
CHARACTERS = 50_000_000  # of them together
SHOWN = 20
SHOWN_CHARACTERS, SHOWN_TOKENS = 80, 8  # of each of them


@dataclass(frozen=True)
class DifferingRow:
    """A text of the dataset that llama.cpp reads as other token ids; `row` is None for a prompt."""

    row: int | None
    text: str
    trained: list[int]
    served: list[int]


@dataclass(frozen=True)
class RowParity:
    """How many rows were compared, and those that differ."""

    rows: int
    differing: list[DifferingRow]

    @property
    def share(self) -> float:
        """The share of rows that differ, 0 to 1."""
        return len(self.differing) / self.rows if self.rows else 0.0

    def examples(self) -> list[dict[str, Any]]:
        """Return the first of them, masked, with both readings from where they part."""
        return [_shown(row) for row in self.differing[:SHOWN]]


def compare(gguf: Path, chats: Chats, prompts: Sequence[str] = ()) -> RowParity:
    """Compare the token ids of ROWS rows and of `prompts` with what llama.cpp makes of their text.

    `gguf` is any model with the tokenizer of `chats`. Rows of the dataset come with their ids; both
    have a BOS where training has one. Without `gguf` nothing is compared.
    """
    import numpy as np

    if not gguf.exists():  # conform said that it can't be made, and the recipe goes on all the same
        return RowParity(0, [])
    sample = _sample(chats)
    rows, texts = [*sample["row"], *[None] * len(prompts)], [*sample["text"], *prompts]
    trained = [*(ids.to_numpy() for ids in sample["input_ids"]), *_ids(chats, prompts)]
    served = llamacpp.token_arrays(gguf, texts)
    differing = [
        DifferingRow(row, text, ours.tolist(), theirs.tolist())
        for row, text, ours, theirs in zip(rows, texts, trained, served, strict=True)
        if not np.array_equal(ours, theirs)
    ]
    return RowParity(len(texts), differing)


def _ids(chats: Chats, prompts: Sequence[str]) -> "list[np.ndarray]":
    """Return the token ids of prompts; rows have theirs."""
    import numpy as np
    from tokenizers import Tokenizer

    if not prompts:  # a large vocabulary takes 3 s to load
        return []
    tokenizer = Tokenizer.from_file(str(chats.tokenizer / "tokenizer.json"))
    return [np.array(encoding.ids) for encoding in tokenizer.encode_batch_fast(list(prompts))]


def _sample(chats: Chats) -> Any:
    """Return `row`, `text` and `input_ids` of the rows that are compared, as a frame."""
    import polars as pl

    columns = ("row", "text", "input_ids")
    held_out = pl.scan_parquet(chats.held_out).select(columns).head(ROWS // 2).collect()
    training = pl.scan_parquet(chats.train).select(columns)
    count = training.select(pl.len()).collect().item()
    step = -(-count // (ROWS - len(held_out)))  # from the whole of it, not from its beginning
    sample = pl.concat([held_out, training.gather_every(max(1, step)).collect()])
    return sample.filter(sample["text"].str.len_chars().cum_sum() <= CHARACTERS)


def _shown(row: DifferingRow) -> dict[str, Any]:
    """Return a row's number, how its text begins, and both readings from where they part."""
    pairs = zip(row.trained, row.served, strict=False)
    common = next(
        (at for at, (mine, theirs) in enumerate(pairs) if mine != theirs),
        min(len(row.trained), len(row.served)),
    )
    return {
        "row": row.row,
        "text": mask(row.text)[:SHOWN_CHARACTERS],
        "tokens_before": common,
        "trained": row.trained[common : common + SHOWN_TOKENS],
        "served": row.served[common : common + SHOWN_TOKENS],
    }
