"""The feature table: one line per row of a dataset, with everything that the gate judges it by.

The dataset is read in batches; what stays in memory is a line of numbers and flags per row (about
0.5 kB, most of it the MinHash while duplicates are looked for).
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from expectations.data import similarity
from expectations.data.batches import batches
from expectations.data.cases import Cases
from expectations.data.messages import Rules, blamed, explode, judge_messages, judge_rows
from retune.overlap import ahead
from retune.recipe import Validation
from retune.recipe.flaws import FLAWS, SCORE_FLAWS

if TYPE_CHECKING:
    import polars as pl

OF_A_MIX = ("part", "part_row")  # columns that rows have in addition, if several datasets are mixed


def features(
    rows: Path, rules: Rules, on_progress: Callable[[int], None] = lambda _row_count: None
) -> "pl.DataFrame":
    """Judge every row of a Parquet file by itself, against its equals and against the prompts.

    Returns one line per row, in order: `row`, `source`, `source_id` (its hash), `score`, `turns`,
    `chars` (of the longest message), `part` and `part_row` of a mix, one boolean per name in FLAWS
    but the scores' (see `with_scores`), `near_case` (the case of a suite that it is too near to, else
    null), `duplicate_of` (the row that a duplicate repeats, else null) and `blamed` (for each flaw of
    its messages `flaw` and `place`, of the first message that has it). A duplicate is a row that repeats
    an earlier *sound* one.
    `on_progress` is told how many rows are done.
    """
    import numpy as np
    import polars as pl
    import pyarrow.parquet as pq

    similar = rules.config.near_duplicate_similarity
    prompts = similarity.Prompts(rules.prompts, rules.config.decontamination.ngram)
    total = pq.read_metadata(rows).num_rows
    cases = Cases(rules.cases, rules.config.decontamination.ngram, total)
    judged, row_count = [], 0
    minhashes = None if similar is None else similarity.MinHashes(total)

    def judge(batch: pl.DataFrame) -> "tuple[pl.DataFrame, pl.DataFrame]":
        return batch, judge_messages(explode(batch), rules)

    for batch, messages in ahead(judge, batches(rows)):
        table = judge_rows(batch, messages, rules.config)
        table = table.join(blamed(messages), on="row", how="left", maintain_order="left")
        row_words = similarity.words(messages, batch["row"])
        grams = similarity.ngrams(row_words, {similarity.SHINGLE, *prompts.lengths, *cases.lengths})
        shingles = similarity.shingles(row_words, grams)
        table = table.with_columns(
            contaminated=pl.Series(prompts.rows_with(grams, len(batch))),
            has_shingles=pl.Series(np.bincount(shingles[1], minlength=len(batch)) > 0),
            **{name: batch[name] for name in OF_A_MIX if name in batch.columns},
        )
        judged.append(table)
        cases.look(grams, row_count)
        if minhashes:
            minhashes.add(similarity.signatures(shingles, len(batch)))
        row_count += len(batch)
        on_progress(row_count)
    table = pl.concat(judged).with_columns(near_case=cases.near())
    table = table.with_columns(pl.col("contaminated") | pl.col("near_case").is_not_null())
    return _with_duplicates(table, minhashes, rules.config)


def with_scores(
    table: "pl.DataFrame", config: Validation, scores: "pl.DataFrame | None" = None
) -> "pl.DataFrame":
    """Judge the scores: add `score_missing`, `score_not_finite` and `score_out_of_range`.

    `scores` (columns `row`, `score`) replace the stored ones first. A score that is not finite
    becomes null.
    """
    import polars as pl

    if scores is not None:
        table = table.update(scores, on="row")
    score = pl.col("score")
    finite = score.is_finite()
    return table.with_columns(
        score=pl.when(finite).then(score),
        score_missing=score.is_null() & config.score_required,
        score_not_finite=~finite.fill_null(True),
        score_out_of_range=finite.fill_null(False)
        & ~score.is_between(config.score_min, config.score_max).fill_null(True),
    )


def _with_duplicates(
    table: "pl.DataFrame", minhashes: similarity.MinHashes | None, config: Validation
) -> "pl.DataFrame":
    """Add `exact_duplicate`, `near_duplicate` and `duplicate_of`."""
    import polars as pl

    sound = is_sound(table, config) & (pl.col("turns") > 0)
    first = pl.col("row").filter(sound).first().over("content")
    table = table.with_columns(duplicate_of=pl.when(sound & (pl.col("row") > first)).then(first))
    table = table.with_columns(exact_duplicate=pl.col("duplicate_of").is_not_null())
    table = table.with_columns(near_duplicate=pl.lit(False))
    if minhashes is not None:
        eligible = table.select(sound & ~pl.col("exact_duplicate") & pl.col("has_shingles"))
        index = eligible.to_series().arg_true().to_numpy()
        twins = minhashes.earlier_twins(index, config.near_duplicate_similarity or 1.0)
        twin = pl.Series(index[twins[twins >= 0]], dtype=pl.UInt32)
        places = pl.Series(index[twins >= 0], dtype=pl.UInt32)
        table = table.with_columns(
            near_duplicate=table["near_duplicate"].scatter(places, True),
            duplicate_of=table["duplicate_of"].scatter(places, table["row"].gather(twin)),
        )
    return table.drop("content", "has_shingles").with_columns(source_id=pl.col("source").hash())


def is_sound(table: "pl.DataFrame", config: Validation) -> "pl.Expr":
    """Return the expression of the rows with no flaw (so far) that sends them to quarantine."""
    import polars as pl

    return ~pl.any_horizontal(
        [name for name in FLAWS if name in table.columns and config.quarantines(name)]
    )


def reasons(table: "pl.DataFrame") -> "pl.Series":
    """Return for each line of the feature table the list of its flaws, in the order of FLAWS."""
    import polars as pl

    labels = [pl.when(pl.col(name)).then(pl.lit(name)) for name in FLAWS]
    return table.select(reasons=pl.concat_list(labels).list.drop_nulls()).to_series()


def with_disposition(table: "pl.DataFrame", config: Validation) -> "pl.DataFrame":
    """Add what becomes of each row to the feature table, `disposition`, and `sound_score`.

    `accepted`, `quarantined` (it has a flaw that the recipe does not keep), or `filtered` (sound,
    but its score is below `keep_score_min` or not among the `keep_top_share`; of equal scores
    the earlier row is kept). `sound_score` is the score of a row that is not quarantined, null
    where it has none that is a number.
    """
    import polars as pl

    sound = is_sound(table, config)
    score = pl.col("score").fill_null(float("-inf"))
    finite = pl.col("score").is_finite()  # before `with_scores`, some may be no numbers
    passes = pl.lit(True)
    if config.keep_score_min is not None:
        passes = score >= config.keep_score_min
    if config.keep_top_share is not None:
        rank = pl.when(sound).then(score).rank("ordinal", descending=True)
        passes = rank <= (sound.sum() * config.keep_top_share).ceil()
    return table.with_columns(
        disposition=pl.when(~sound)
        .then(pl.lit("quarantined"))
        .when(passes)
        .then(pl.lit("accepted"))
        .otherwise(pl.lit("filtered")),
        sound_score=pl.when(sound & finite).then(pl.col("score")),
    )


def unscored(table: "pl.DataFrame", config: Validation) -> "pl.DataFrame":
    """Return the feature table with its dispositions as far as they depend on no score."""
    import polars as pl

    nothing = {flaw: pl.lit(False) for flaw in SCORE_FLAWS}
    free = config.model_copy(update={"keep_score_min": None, "keep_top_share": None})
    return with_disposition(table.with_columns(**nothing), free)


def sound_scores(table: "pl.DataFrame") -> "pl.Series":
    """Return the scores of the sound rows, those that the filter drops included."""
    return table["sound_score"].drop_nulls()
