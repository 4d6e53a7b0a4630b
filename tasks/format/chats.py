"""Conversations as ChatML text and token ids, split into training and held-out rows."""

import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from expectations.data.batches import batches
from expectations.data.masking import mask
from expectations.data.tables import column
from retune.chat import (
    CONTENT_TAGS,
    ChatFormatError,
    decode,
    encode,
    gives_back,
    is_lossless,
    special_tokens,
)
from retune.labels import IGNORED, shown, token_rows
from retune.overlap import ahead
from retune.questions import first_question
from retune.templates import Refusal, TemplateRefused, outcomes, render, rendering
from tasks.format.effects import RefusedRow, TemplateEffects
from tasks.format.unlearned import plain, unlearned_spans

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    import pyarrow as pa
    from transformers import PreTrainedTokenizerBase

SHOWN_ROWS = 3
BATCH = 2000  # rows that are rendered and tokenised together; bounds memory, not results


class FormattedRows(NamedTuple):
    """The training rows' lengths in tokens, the number of held-out rows, and what the template did
    to the rows."""

    lengths: "np.ndarray"
    held_out: int
    effects: TemplateEffects


def write_chats(
    rows: Path, tokenizer: "PreTrainedTokenizerBase", held_out_share: float, folder: Path
) -> FormattedRows:
    """Write `train.parquet` and `held_out.parquet` (see `retune.records.Chats`).

    A row that the template refuses is in neither. Raises ChatFormatError when a side stays empty,
    when a text does not survive the tokenizer, or when the ids hold other control tokens than the
    template put there.
    """
    import polars as pl
    import pyarrow.parquet as pq

    proof = Proof(tokenizer)
    sides = Sides(held_out_share, _referred(rows))
    effects = TemplateEffects()

    def encode_batch(batch: pl.DataFrame) -> "tuple[pl.DataFrame, pl.DataFrame]":
        batch, refused = rendered(batch, tokenizer)
        effects.refused += refused
        return batch, encoded(batch, tokenizer)

    lengths: list[pl.Series] = []
    held_out = 0
    with (
        rendering(),
        pq.ParquetWriter(folder / "train.parquet", _schema()) as train,
        pq.ParquetWriter(folder / "held_out.parquet", _schema()) as held_out_file,
    ):
        for batch, chats in ahead(encode_batch, batches(rows, BATCH)):
            proof.check(chats)
            effects.compare(chats)
            is_held_out = sides.held_out(batch)
            training, withheld = chats.remove(is_held_out), chats.filter(is_held_out)
            train.write_table(training.to_arrow().cast(_schema()))
            held_out_file.write_table(withheld.to_arrow().cast(_schema()))
            lengths.append(training["input_ids"].list.len())
            held_out += len(withheld)
    counts = pl.concat(lengths).to_numpy()
    if not len(counts) + held_out and effects.refused:
        raise ChatFormatError(
            f"the chat template refuses every row: {effects.reasons()[0][0]}; change the rows, or repair "
            f"the base's chat template"
        )
    if not len(counts) or not held_out:
        raise ChatFormatError(
            f"formatting.held_out_share: {held_out_share:g} of {len(counts) + held_out:,} rows leaves "
            f"{len(counts):,} for training and {held_out:,} held out; change it or use more rows"
        )
    return FormattedRows(counts, held_out, effects)


def rendered(
    batch: "pl.DataFrame", tokenizer: "PreTrainedTokenizerBase"
) -> "tuple[pl.DataFrame, list[RefusedRow]]":
    """Return a batch of rows with their `text`, without those that the template refuses, and these.

    Raises ChatFormatError at a row on which the template met a limit.
    """
    import polars as pl

    results = outcomes(tokenizer, [plain(chat) for chat in batch["messages"].to_list()])
    for row, outcome in zip(batch["row"], results, strict=True):
        if isinstance(outcome, Refusal) and outcome.met_limit:
            raise ChatFormatError(
                f"row {row} has no text by the chat template: {outcome.words}; remove the row, or repair "
                f"the base's chat template"
            )
    refused = [
        RefusedRow(row, mask(source), mask(outcome.words))
        for row, source, outcome in zip(batch["row"], batch["source"], results, strict=True)
        if isinstance(outcome, Refusal)
    ]
    texts = [None if isinstance(outcome, Refusal) else outcome for outcome in results]
    texted = batch.with_columns(text=pl.Series(texts, dtype=pl.String))
    return texted.filter(pl.col("text").is_not_null()), refused


def encoded(batch: "pl.DataFrame", tokenizer: "PreTrainedTokenizerBase") -> "pl.DataFrame":
    """Return `row`, `source`, `messages`, `text`, `input_ids` and `unlearned` of rows with their text.

    Raises ChatFormatError for a row whose messages cannot be told apart in its ids, and some of them
    must not be learnt.
    """
    import polars as pl

    ids = encode(tokenizer, batch["text"].to_list())
    spans = unlearned_spans(batch, ids, tokenizer)
    return batch.select("row", "source", "messages", "text").with_columns(
        input_ids=pl.Series(ids, dtype=pl.List(pl.Int32)),
        unlearned=pl.Series(spans, dtype=pl.List(pl.Int32)),
    )


def learned(
    train: Path, tokenizer: "PreTrainedTokenizerBase", train_on: str, max_length: int
) -> "tuple[float, list[str]]":
    """Return the share of training rows without a token to learn from, and the first three rows as
    text, with ⟦what is not learned⟧ in brackets."""
    rows = nothing = 0
    texts: list[str] = []
    every_row_is_learned = train_on == "all" and not _has_unlearned(train)
    for row in token_rows(train, 2**62, max_length):
        ids, labels = row.ids, row.labels(tokenizer, train_on)
        rows += 1
        nothing += all(label == IGNORED for label in labels)
        if len(texts) < SHOWN_ROWS:
            texts.append(shown({"input_ids": ids, "labels": labels}, tokenizer))
        elif every_row_is_learned:
            break  # every token but the first is learned: no further row need be looked at
    return nothing / max(1, rows), texts


def _has_unlearned(train: Path) -> bool:
    import polars as pl

    return bool(
        pl.scan_parquet(train).select(pl.col("unlearned").list.len().sum()).collect().item()
    )


class Sides:
    """Which side of the split a row is on: a share of all rows is held out of training.

    A conversation's side is chosen by a hash of its first question alone, so it never changes when
    the dataset grows, is reordered or is cut, and no question is on both sides. A near duplicate that
    the gate let pass goes where the earlier row is that it is like. A row with a `split_group` goes
    where its group goes, whatever it asks: two groups that ask the same may be on both sides.
    """

    def __init__(self, held_out_share: float, referred: Collection[int] = frozenset()) -> None:
        """`referred` are the numbers of rows that a later one is a duplicate of."""
        self._share = held_out_share
        self._referred = referred
        self._places: dict[int, float] = {}  # of these, by row

    def held_out(self, batch: "pl.DataFrame") -> "pl.Series":
        """Tell for each row of a batch (with `row`, `messages`, perhaps `split_group` and, from the
        gate, `duplicate_of`)."""
        import polars as pl

        plain = batch.select(first_question()).to_series()
        nothing = [None] * len(batch)
        twins = batch["duplicate_of"] if "duplicate_of" in batch.columns else nothing
        groups = batch["split_group"] if "split_group" in batch.columns else nothing
        places = []
        for row, twin, group, text in zip(batch["row"], twins, groups, plain, strict=True):
            own = _fraction(group) if group else None
            places.append(own or self._places.get(twin) or _fraction(text))
            if row in self._referred:
                self._places[row] = places[-1]
        return pl.Series([place < self._share for place in places], dtype=pl.Boolean)


def _referred(rows: Path) -> frozenset[int]:
    """Return the numbers of the rows in a file that another one is a duplicate of."""
    import polars as pl

    table = pl.scan_parquet(rows)
    if "duplicate_of" not in table.collect_schema():
        return frozenset()
    return frozenset(
        column(table.drop_nulls("duplicate_of").unique("duplicate_of"), "duplicate_of")
    )


def _fraction(text: str) -> float:
    """Map a text to a number in [0, 1), uniform over texts and the same on every machine."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) / 2**64


class Proof:
    """The proof that ids represent their text and nothing else.

    No message turned into control tokens: a row's ids hold as many of them as the template itself
    emits for a conversation with its sequence of roles. And the ids give the text back.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self._tokenizer = tokenizer
        self._is_lossless = is_lossless(tokenizer)
        self._control_tokens = special_tokens(tokenizer)
        delimiters = [token for token in self._control_tokens if token not in CONTENT_TAGS]
        ids = tokenizer.convert_tokens_to_ids(delimiters)
        assert isinstance(ids, list)  # of a list, it is one
        self._ids = ids
        self._emitted: dict[tuple[str, ...], int] = {}

    def check(self, chats: "pl.DataFrame") -> None:
        """Raise ChatFormatError naming the first row that breaks one of the two."""
        self._check_control_tokens(chats)
        if not self._is_lossless:
            self._check_round_trip(chats)

    def _check_control_tokens(self, chats: "pl.DataFrame") -> None:
        import polars as pl

        is_control = pl.element().is_in(self._ids)
        counts = chats.select(pl.col("input_ids").list.eval(is_control).list.sum()).to_series()
        roles = chats.select(pl.col("messages").list.eval(pl.element().struct.field("role")))
        emitted = [self._of_template(tuple(of_row)) for of_row in roles.to_series().to_list()]
        wrong = (counts != pl.Series(emitted, dtype=counts.dtype)).arg_true()
        if len(wrong):
            at = wrong[0]
            raise ChatFormatError(
                f"row {chats['row'][at]} has {counts[at]} control tokens where the chat template emits "
                f"{emitted[at]}: {mask(chats['text'][at])!r:.200}; a message holds one as text (set "
                f"validation.special_tokens=escape), or the template and the tokenizer do not fit"
            )

    def _check_round_trip(self, chats: "pl.DataFrame") -> None:
        decoded = decode(self._tokenizer, chats["input_ids"].to_list())
        lost = [
            at
            for at, (back, text) in enumerate(zip(decoded, chats["text"], strict=True))
            if not gives_back(back, text, self._control_tokens)
        ]
        if lost:
            at = lost[0]
            raise ChatFormatError(
                f"the tokenizer does not give back what went in: row {chats['row'][at]}, "
                f"{mask(chats['text'][at])!r:.120} became {mask(decoded[at])!r:.120}; choose a base "
                f"model whose tokenizer is lossless"
            )

    def _of_template(self, roles: tuple[str, ...]) -> int:
        if roles not in self._emitted:
            empty = [{"role": role, "content": "x"} for role in roles]
            try:
                text = render(self._tokenizer, [empty])
            except TemplateRefused as refused:
                raise ChatFormatError(
                    f"the chat template does not render {' and '.join(roles)} with x for each text: "
                    f"{refused.words}; repair the base's chat template"
                ) from None
            (ids,) = encode(self._tokenizer, text)
            self._emitted[roles] = sum(token in self._ids for token in ids)
        return self._emitted[roles]


def token_statistics(lengths: "np.ndarray", max_length: int) -> dict[str, float]:
    """Return the training rows' token counts, and the share that `max_length` cuts."""
    import numpy as np

    return {
        "tokens/total": int(lengths.sum()),
        "tokens/mean": float(lengths.mean()),
        "tokens/p95": float(np.quantile(lengths, 0.95)),
        "tokens/max": int(lengths.max()),
        "truncated_share": float((lengths > max_length).mean()),
    }


def _schema() -> "pa.Schema":
    import pyarrow as pa

    message = pa.struct([("role", pa.string()), ("content", pa.string()), ("learn", pa.bool_())])
    return pa.schema(
        {
            "row": pa.int64(),
            "source": pa.string(),
            "messages": pa.list_(message),
            "text": pa.string(),
            "input_ids": pa.list_(pa.int32()),
            "unlearned": pa.list_(pa.int32()),
        }
    )
