"""The feature table: one line per row of a dataset, with everything that the gate judges it by.

The dataset is read in batches, and what a row is compared by goes to files: a line of the table, its
MinHash, a hash of what it says. In memory stay some 30 bytes a row while duplicates are looked for.
"""

from collections.abc import Callable, Iterable, Iterator
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from expectations.data import similarity
from expectations.data.cases import Cases
from expectations.data.looking import HITS, SIGNATURE, look_here
from expectations.data.messages import Rules
from expectations.data.tables import column, parts, repeats, writing
from retune.recipe import Validation
from retune.recipe.flaws import FLAWS, SCORE_FLAWS
from retune.temporary import temporary_folder

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    from expectations.data.looking import Look

Frame = TypeVar("Frame", "pl.DataFrame", "pl.LazyFrame")


def features(
    rows: Path,
    rules: Rules,
    folder: Path,
    on_progress: Callable[[int], None] = lambda _row_count: None,
    look: "Look" = look_here,
) -> "Iterator[pl.DataFrame]":
    """Judge every row of a Parquet file by itself, against its equals and against the prompts.

    Yields one line per row, in order, in frames: `row`, `source`, `source_id` (its hash), `score`,
    `turns`, `chars` (of the longest message), `part` and `part_row` of a mix, one boolean per name in
    FLAWS but the scores' (see `with_scores`), `near_case` (the case of a suite that it is too near to,
    else null), `duplicate_of` (the row that a duplicate repeats, else null) and `blamed` (for each flaw
    of its messages `flaw` and `place`, of the first message that has it). A duplicate is a row that
    repeats an earlier *sound* one. What is kept of rows until all were seen is in `folder` meanwhile.
    `on_progress` is told how many rows are done. `look` looks at each row by itself.
    """
    import polars as pl

    with temporary_folder(str(folder)) as scratch:
        own = scratch / "own.parquet"
        with similarity.MinHashes(scratch, _to_compare(rows, rules)) as minhashes:
            near = _judge_each(rows, rules, own, minhashes, on_progress, look)
            twins = _twins(pl.scan_parquet(own), minhashes, rules.config)
        place = 0
        for lines in parts(pl.scan_parquet(own)):
            yield _compared(lines, place, near, twins)
            place += len(lines)


def _to_compare(rows: Path, rules: Rules) -> int:
    """Return how many rows near duplicates are looked for among."""
    import pyarrow.parquet as pq

    looked_for = rules.config.near_duplicate_similarity is not None
    return pq.read_metadata(rows).num_rows if looked_for else 0


def _judge_each(
    rows: Path,
    rules: Rules,
    own: Path,
    minhashes: similarity.MinHashes,
    on_progress: Callable[[int], None],
    look: "Look",
) -> "pl.DataFrame":
    """Write into the file `own` what each row tells by itself, and what it is compared by; return the
    places of those near to a case of a suite (see `cases.Cases.near`)."""
    import pyarrow.parquet as pq

    similar = rules.config.near_duplicate_similarity is not None
    cases = Cases(rules.cases, rules.config.decontamination.ngram, pq.read_metadata(rows).num_rows)
    row_count = 0
    with writing(own) as write:
        for lines in look(rows, rules):
            write(lines.drop(SIGNATURE, HITS))
            cases.look(lines[HITS], row_count)
            if similar:
                minhashes.add(lines[SIGNATURE].to_numpy())
            row_count += len(lines)
            on_progress(row_count)
    return cases.near()


class _Twins(NamedTuple):
    """For each row the place of the earlier one that it repeats, or is like, -1 for none."""

    equal: "np.ndarray"
    similar: "np.ndarray"
    rows: "np.ndarray"  # the number of the row at each place


def _twins(table: "pl.LazyFrame", minhashes: similarity.MinHashes, config: Validation) -> _Twins:
    import numpy as np
    import polars as pl

    sound = is_sound(table, config) & (pl.col("turns") > 0)
    flags = table.select(sound=sound, has_shingles="has_shingles").collect(engine="streaming")
    equal, similar = (np.full(len(flags), -1, np.int32) for _ in range(2))
    places = flags["sound"].arg_true().to_numpy()
    later, first = repeats(column(table, "content").gather(flags["sound"].arg_true()).to_numpy())
    equal[places[later]] = places[first]
    if config.near_duplicate_similarity is not None:
        eligible = flags["sound"].to_numpy() & (equal < 0) & flags["has_shingles"].to_numpy()
        places = np.flatnonzero(eligible)
        twins = minhashes.earlier_twins(places, config.near_duplicate_similarity)
        found = np.flatnonzero(twins >= 0)
        similar[places[found]] = places[twins[found]]
    return _Twins(equal, similar, column(table, "row").to_numpy())


def _compared(
    lines: "pl.DataFrame", place: int, near: "pl.DataFrame", twins: _Twins
) -> "pl.DataFrame":
    """Return the lines from a place of the table on, with what is known since all rows were seen."""
    import numpy as np
    import polars as pl

    own = slice(place, place + len(lines))
    equal, similar = twins.equal[own], twins.similar[own]
    twin = np.maximum(equal, similar)
    earlier = pl.Series(twins.rows[np.maximum(twin, 0)])
    lines = lines.with_columns(place=pl.int_range(place, own.stop, dtype=pl.Int64, eager=True))
    lines = lines.join(near, on="place", how="left", maintain_order="left").drop("place")
    return (
        lines.with_columns(
            contaminated=pl.col("contaminated") | pl.col("near_case").is_not_null(),
            duplicate_of=pl.select(pl.when(pl.Series(twin >= 0)).then(earlier)).to_series(),
            exact_duplicate=pl.Series(equal >= 0),
            near_duplicate=pl.Series(similar >= 0),
        )
        .drop("content", "has_shingles")
        .with_columns(source_id=pl.col("source").hash())
    )


def with_scores(table: Frame, config: Validation, scores: "pl.DataFrame | None" = None) -> Frame:
    """Judge the scores: add `score_missing`, `score_not_finite` and `score_out_of_range`.

    `scores` (columns `row`, `score`) replace the stored ones first. A score that is not finite
    becomes null.
    """
    import polars as pl

    if scores is not None:
        table = table.update(scores, on="row")  # type: ignore[arg-type]  # both are of one kind
    score = pl.col("score")
    finite = score.is_finite()
    return table.with_columns(
        score=pl.when(finite).then(score),
        score_missing=score.is_null() & config.score_required,
        score_not_finite=~finite.fill_null(True),
        score_out_of_range=finite.fill_null(False)
        & ~score.is_between(config.score_min, config.score_max).fill_null(True),
    )


def is_sound(table: "pl.DataFrame | pl.LazyFrame", config: Validation) -> "pl.Expr":
    """Return the expression of the rows with no flaw (so far) that sends them to quarantine."""
    import polars as pl

    names = table.collect_schema().names()
    return ~pl.any_horizontal(
        [name for name in FLAWS if name in names and config.quarantines(name)]
    )


def reasons(table: "pl.DataFrame") -> "pl.Series":
    """Return for each line of the feature table the list of its flaws, in the order of FLAWS."""
    import polars as pl

    labels = [pl.when(pl.col(name)).then(pl.lit(name)) for name in FLAWS]
    return table.select(reasons=pl.concat_list(labels).list.drop_nulls()).to_series()


class Cut(NamedTuple):
    """The last row that `keep_top_share` lets pass: those with a higher score do too, and those before
    it with the same score."""

    score: float
    row: int


def cut(tables: "Iterable[pl.DataFrame]", config: Validation) -> Cut | None:
    """Return where a feature table with scores, given in frames, is cut by `keep_top_share`; None where
    all pass."""
    import numpy as np
    import polars as pl

    if config.keep_top_share is None:
        return None
    score = pl.col("score").fill_null(float("-inf"))
    found = pl.concat(
        table.filter(is_sound(table, config)).select("row", score=score) for table in tables
    )
    kept = ceil(len(found) * config.keep_top_share)
    if kept >= len(found):
        return None
    scores = found["score"].to_numpy()
    last = float(np.partition(scores, len(scores) - kept)[len(scores) - kept])
    equal = np.flatnonzero(scores == last)
    place = equal[kept - int((scores > last).sum()) - 1]
    return Cut(last, int(found["row"][int(place)]))


def with_disposition(table: Frame, config: Validation, last: Cut | None = None) -> Frame:
    """Add what becomes of each row to (a part of) the feature table, `disposition`, and `sound_score`.

    `accepted`, `quarantined` (it has a flaw that the recipe does not keep), or `filtered` (sound,
    but its score is below `keep_score_min` or not among the `keep_top_share`, which ends at `last`; of
    equal scores the earlier row is kept). `sound_score` is the score of a row that is not quarantined,
    null where it has none that is a number.
    """
    import polars as pl

    sound = is_sound(table, config)
    score = pl.col("score").fill_null(float("-inf"))
    finite = pl.col("score").is_finite()  # before `with_scores`, some may be no numbers
    passes = pl.lit(True)
    if config.keep_score_min is not None:
        passes = score >= config.keep_score_min
    if last is not None:
        passes = (score > last.score) | ((score == last.score) & (pl.col("row") <= last.row))
    return table.with_columns(
        disposition=pl.when(~sound)
        .then(pl.lit("quarantined"))
        .when(passes)
        .then(pl.lit("accepted"))
        .otherwise(pl.lit("filtered")),
        sound_score=pl.when(sound & finite).then(pl.col("score")),
    )


def unscored(table: Frame, config: Validation) -> Frame:
    """Return the feature table with its dispositions as far as they depend on no score."""
    import polars as pl

    nothing = {flaw: pl.lit(False) for flaw in SCORE_FLAWS}
    free = config.model_copy(update={"keep_score_min": None, "keep_top_share": None})
    return with_disposition(table.with_columns(**nothing), free)


def sound_scores(table: "pl.DataFrame | pl.LazyFrame") -> "pl.Series":
    """Return the scores of the sound rows, those that the filter drops included."""
    return column(table.lazy(), "sound_score").drop_nulls()
