"""format: conversations become ChatML text, split into training and held-out rows."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact

from retune.chat import END, ChatFormatError, chatml_tokenizer, encode
from retune.config import Formatting, Model
from retune.records import Chats, Pins, Rows
from retune.workspace import Step, building
from tasks.stage import stage

if TYPE_CHECKING:
    import polars as pl
    from transformers import PreTrainedTokenizerBase

BATCH = 2000  # rows that are rendered and tokenised together; bounds memory, not results


@stage(name="format")
def format_chats(rows: Rows, model: Model, config: Formatting, pins: Pins, step: Step) -> Chats:
    """Render every conversation with the chat template, count its tokens, and split."""
    with building(step) as build:
        tokenizer = chatml_tokenizer(model.base, pins.commit(pins.model))
        train, held_out = split(rows.path, config.held_out_share)
        tokenizer.save_pretrained(build.path / "tokenizer")
        lengths = write_chats(train, tokenizer, build.path / "train.parquet")
        write_chats(held_out, tokenizer, build.path / "held_out.parquet")
        metrics = {"rows/train": len(train), "rows/held_out": len(held_out)}
        metrics |= token_statistics(lengths, model.max_length)
        _show(build.path / "train.parquet", metrics)
        return build.finish(Chats, metrics=metrics, files=("tokenizer/chat_template.jinja",))


def split(rows: Path, held_out_share: float) -> tuple["pl.DataFrame", "pl.DataFrame"]:
    """Return (training rows, held-out rows) of a Parquet file, chosen by a hash of the content.

    A conversation's side depends on nothing but its own text, so it never changes when the dataset
    grows, is reordered or is cut. Raises ChatFormatError when a side stays empty.
    """
    import polars as pl

    frame = pl.read_parquet(rows)
    fraction = pl.Series([_fraction(messages) for messages in frame["messages"].to_list()])
    train, held_out = (
        frame.filter(fraction >= held_out_share),
        frame.filter(fraction < held_out_share),
    )
    if train.is_empty() or held_out.is_empty():
        raise ChatFormatError(
            f"formatting.held_out_share: {held_out_share:g} of {len(frame):,} rows leaves "
            f"{len(train):,} for training and {len(held_out):,} held out; change it or use more rows"
        )
    return train, held_out


def _fraction(messages: list[dict[str, str]]) -> float:
    """Map a conversation to a number in [0, 1), uniform over contents; case and margins are ignored."""
    text = "\x1e".join(f"{m['role']}\x1f{m['content'].strip().lower()}" for m in messages)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) / 2**64


def write_chats(
    rows: "pl.DataFrame", tokenizer: "PreTrainedTokenizerBase", path: Path
) -> list[int]:
    """Write `rows` with `text` and `input_ids` to a Parquet file; return their lengths in tokens.

    Raises ChatFormatError when a text does not survive the tokenizer, or when the ids hold other
    control tokens than the template put there.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = rows.to_arrow().drop_columns(["score"])
    schema = table.schema.append(pa.field("text", pa.string())).append(
        pa.field("input_ids", pa.list_(pa.int32()))
    )
    lengths: list[int] = []
    with pq.ParquetWriter(path, schema) as writer:
        for batch in table.to_batches(BATCH):
            conversations = batch["messages"].to_pylist()
            texts = tokenizer.apply_chat_template(conversations, tokenize=False)
            ids = encode(tokenizer, texts)
            for conversation, text, row_ids in zip(conversations, texts, ids, strict=True):
                _check(tokenizer, conversation, text, row_ids)
            columns = [*batch.columns, pa.array(texts), pa.array(ids, pa.list_(pa.int32()))]
            writer.write_batch(pa.record_batch(columns, schema=schema))
            lengths += [len(row_ids) for row_ids in ids]
    return lengths


def _check(
    tokenizer: "PreTrainedTokenizerBase", conversation: list[Any], text: str, ids: list[int]
) -> None:
    ends = ids.count(tokenizer.eos_token_id)
    if ends != len(conversation):
        raise ChatFormatError(
            f"a conversation of {len(conversation)} messages has {ends} {END} tokens: {text!r:.120}; the "
            f"chat template and the tokenizer do not fit together"
        )
    decoded = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    if not decoded.endswith(text):  # a BOS may stand before it
        raise ChatFormatError(
            f"the tokenizer does not give back what went in: {text!r:.120} became {decoded!r:.120}; "
            f"choose a base model whose tokenizer is lossless"
        )


def token_statistics(lengths: list[int], max_length: int) -> dict[str, float]:
    """Return the training rows' token counts, and the share that `max_length` cuts."""
    import numpy as np

    counts = np.asarray(lengths)
    return {
        "tokens/total": int(counts.sum()),
        "tokens/mean": float(counts.mean()),
        "tokens/p95": float(np.quantile(counts, 0.95)),
        "tokens/max": int(counts.max()),
        "truncated_share": float((counts > max_length).mean()),
    }


def _show(train: Path, metrics: dict[str, float]) -> None:
    import polars as pl

    get_run_logger().info(
        "%s training rows, %s held out, %s tokens, %.1f %% cut",
        f"{metrics['rows/train']:,}",
        f"{metrics['rows/held_out']:,}",
        f"{metrics['tokens/total']:,}",
        100 * metrics["truncated_share"],
    )
    example = pl.scan_parquet(train).select("text").head(1).collect().item()
    numbers = "\n".join(f"| {name} | {value:,.4g} |" for name, value in metrics.items())
    create_markdown_artifact(
        key="format",
        markdown=f"| | |\n|---|---:|\n{numbers}\n\nThe first training row:\n\n```\n{example[:2000]}\n```",
        description="Token statistics and an example",
    )
