"""What rows tell by themselves, and what they are compared by: batch by batch, wherever it is done."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from expectations.data import similarity
from expectations.data.batches import batches
from expectations.data.cases import Wanted
from expectations.data.messages import Rules, blamed, explode, judge_messages, judge_rows
from retune.overlap import ahead

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    Look = Callable[[Path, Rules], Iterator[pl.DataFrame]]

OF_A_MIX = ("part", "part_row")  # columns that rows have in addition, if several datasets are mixed
SIGNATURE, HITS = "signature", "hits"  # what rows are compared by, beside `content`


def look_here(rows: Path, rules: Rules) -> "Iterator[pl.DataFrame]":
    """Yield what `look` does of a Parquet file of rows."""
    return look(batches(rows), rules)


def look(rows: "Iterable[pl.DataFrame]", rules: Rules) -> "Iterator[pl.DataFrame]":
    """Judge batches of rows, each row by itself; yields a frame for each batch, with a line for each row.

    Its columns are those of `messages.judge_rows`, `blamed`, `part` and `part_row` of a mix,
    `contaminated` by an evaluation prompt, `has_shingles`, SIGNATURE (its MinHash, null where no near
    duplicates are looked for) and HITS (which n-grams of cases it holds, see `cases.Wanted`).
    """
    prompts = similarity.Prompts(rules.prompts, rules.config.decontamination.ngram)
    wanted = Wanted(rules.cases, rules.config.decontamination.ngram)
    lengths = {similarity.SHINGLE, *prompts.lengths, *wanted.lengths}

    def judge(batch: "pl.DataFrame") -> "tuple[pl.DataFrame, pl.DataFrame]":
        return batch, judge_messages(explode(batch), rules)

    for batch, messages in ahead(judge, rows):
        words = similarity.words(messages, batch["row"])
        grams = similarity.ngrams(words, lengths)
        shingles = similarity.shingles(words, grams)
        yield _lines(batch, messages, rules).with_columns(
            contaminated=_series(prompts.rows_with(grams, len(batch))),
            has_shingles=_has_any(shingles, len(batch)),
            **{
                SIGNATURE: _signatures(shingles, len(batch), rules),
                HITS: wanted.hits(grams, len(batch)),
            },
        )


def _lines(batch: "pl.DataFrame", messages: "pl.DataFrame", rules: Rules) -> "pl.DataFrame":
    table = judge_rows(batch, messages, rules.config)
    table = table.join(blamed(messages), on="row", how="left", maintain_order="left")
    return table.with_columns(batch[name] for name in OF_A_MIX if name in batch.columns)


def _has_any(shingles: "similarity.Grams", count: int) -> "pl.Series":
    import numpy as np

    return _series(np.bincount(shingles[1], minlength=count) > 0)


def _signatures(shingles: "similarity.Grams", count: int, rules: Rules) -> "pl.Series":
    import polars as pl

    kind = pl.Array(pl.UInt32, similarity.PERMUTATIONS)
    if rules.config.near_duplicate_similarity is None:
        return pl.Series([None] * count, dtype=kind)
    return pl.Series(similarity.signatures(shingles, count), dtype=kind)


def _series(values: "np.ndarray") -> "pl.Series":
    import polars as pl

    return pl.Series(values)
