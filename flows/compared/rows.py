"""The rows of a run in few bytes: what tells next month which rows were added, removed or edited.

A digest of each accepted row is kept in MLflow, and none of its text: 100,000 rows are 3 MB, and a
comparison needs no work folder.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from expectations.data.batches import batches
from expectations.data.masking import masked
from retune.records import Chats, Rows
from retune.tracking import Run

if TYPE_CHECKING:
    import polars as pl

FOLDER, FILE = "rows", "accepted.parquet"
ARTIFACT = f"{FOLDER}/{FILE}"
MOST_ROWS = 250_000  # of which every digest is kept; of more rows, those of the lowest digests
TRAIN, HELD_OUT, UNUSED = "train", "held_out", "unused"


def log_rows(run: Run, sound: Rows, chats: Chats) -> None:
    """Keep what `digests` returns as an artifact of `run`."""
    with TemporaryDirectory(prefix="retune-rows-") as folder:
        kept(digests(sound, chats)).write_parquet(Path(folder) / FILE, compression="zstd")
        run.log_files(Path(folder), (FILE,), FOLDER)


def digests(sound: Rows, chats: Chats) -> "pl.DataFrame":
    """Return a line per accepted row of a run.

    `row` is its number in the source, `digest` that of its messages (roles, texts, what is not to be
    learnt), `opening` of its first user message, `closing` of its last message, each 64 bits;
    `source` (masked) and `score` are as accepted, `chars` is the length of its messages, and `split`
    says whether it was trained on: train, held_out, or unused, where the format had no use for it.
    """
    import polars as pl

    lines = pl.concat(list(_lines(sound.path)))
    splits = [
        pl.read_parquet(path, columns=["row"]).with_columns(split=pl.lit(name))
        for name, path in ((TRAIN, chats.train), (HELD_OUT, chats.held_out))
    ]
    lines = lines.join(pl.concat(splits), on="row", how="left", maintain_order="left")
    return lines.with_columns(pl.col("split").fill_null(UNUSED), masked(lines["source"]))


def kept(lines: "pl.DataFrame") -> "pl.DataFrame":
    """Return the lines that are kept, with the `share` of all that they are.

    By their digests, so that a row which two runs have is kept by both or by neither.
    """
    import polars as pl

    share = 1.0
    while share * len(lines) > MOST_ROWS:
        share /= 2
    return sampled(lines, share).with_columns(share=pl.lit(share, pl.Float32))


def sampled(lines: "pl.DataFrame", share: float) -> "pl.DataFrame":
    """Return the lines of the lowest digests, of which a `share` (a power of 1/2) is expected."""
    import polars as pl

    return lines if share == 1 else lines.filter(pl.col("digest") < int(share * 2**64))


def _lines(path: Path) -> "Iterator[pl.DataFrame]":
    import polars as pl

    turn, keys = pl.element().struct, ("digest", "opening", "closing")
    text = turn.field("content").fill_null("")
    whole = [turn.field("role").fill_null(""), turn.field("learn").cast(pl.String).fill_null("")]
    # What stands between parts is in no text that a person types.
    rows = pl.concat_str(*whole, text, separator="\x1f")
    said = pl.col("messages").list.eval(text.filter(turn.field("role") == "user")).list.first()
    texts = pl.col("messages").list.eval(text)
    for batch in batches(path):
        yield batch.select(
            "row",
            pl.col("messages").list.eval(rows).list.join("\x1e").alias("digest"),
            said.fill_null("").alias("opening"),
            texts.list.last().fill_null("").alias("closing"),
            "source",
            pl.col("score").cast(pl.Float32),
            chars=texts.list.eval(pl.element().str.len_chars()).list.sum().cast(pl.UInt32),
        ).with_columns(pl.col(key).map_batches(_digests, pl.UInt64) for key in keys)


def _digests(texts: "pl.Series") -> "pl.Series":
    import polars as pl

    digests = (hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts.to_list())
    return pl.Series(texts.name, map(int.from_bytes, digests), dtype=pl.UInt64)
