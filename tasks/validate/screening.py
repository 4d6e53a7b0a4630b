"""From a Parquet file of rows to what is handed on of them: `screen` looks at every row, `settle` at
its score too. Neither knows a limit of the gate: `expectations.data` judges.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from expectations.data.batches import batches
from expectations.data.excerpts import LENGTH
from expectations.data.features import (
    cut,
    features,
    reasons,
    sound_scores,
    unscored,
    with_disposition,
    with_scores,
)
from expectations.data.looking import look_here
from expectations.data.masking import masked
from expectations.data.measures import NOTHING, Asked
from expectations.data.messages import Rules
from expectations.data.profile.looks import write_looks
from expectations.data.scores import distribution
from expectations.data.tables import alongside, parts, sums, writing
from expectations.data.totals import totals
from retune.ignored import Ignored
from retune.recipe.flaws import FLAWS
from tasks.validate.classifier import Answers, planned, score
from tasks.validate.quarantine import FirstRows, write_quarantine
from tasks.validate.scoring import Score, score_here

if TYPE_CHECKING:
    import polars as pl

    from expectations.data.looking import Look

FEATURES = "features.parquet"
# What goes to MLflow besides the quarantine; small and without secrets.
SCORES = "scores.json"
WHOLE_ROWS = "quarantine_rows.parquet"  # stays in the work folder: it holds what the rows say


def screen(rows: Path, rules: Rules, folder: Path, look: "Look" = look_here) -> "pl.LazyFrame":
    """Judge every row of a Parquet file by itself, which `look` does, and against the others; ask for no
    score.

    Writes `features.parquet` (the feature table, see `expectations.data.features`), with the
    `disposition` of each row, `examples.parquet` (excerpts of some rows with each flaw) and
    `quarantine.parquet` (`row`, `source`, `score`, `reasons`, `place` of the message to blame and
    `excerpt`). What quotes a row is masked (`expectations.data.masking`). The profile's files are
    written beside (`expectations.data.profile.looks`), and what the source has and no row
    (`ignored.json`). Returns the table, which stays in its file.
    """
    judged = (_unscored(lines, rules) for lines in features(rows, rules, folder, look=look))
    table = _write(rows, judged, rules, folder)
    write_looks(rows, table, rules.config, folder)
    return table


def _unscored(lines: "pl.DataFrame", rules: Rules) -> "pl.DataFrame":
    """Add what depends on no score. Of a source only its masked name is kept; `source_id` tells sources
    apart."""
    source = masked(lines["source"]).str.head(LENGTH)
    return unscored(lines, rules.config).with_columns(source.alias("source"))


class Settled(NamedTuple):
    """The feature table with the final dispositions, and what the classifier was asked, if it was."""

    table: "pl.LazyFrame"
    answers: Answers | None

    @property
    def asked(self) -> Asked:
        return self.answers.asked if self.answers else NOTHING

    def metrics(self) -> dict[str, float]:
        """Return what the classifier said, under its stable metric names."""
        asked = self.asked
        numbers = {
            "scored": asked.scored or None,
            "score_agreement": asked.agreement,
            "score_correlation": asked.correlation,
        }
        return {name: value for name, value in numbers.items() if value is not None}


def settle(
    rows: Path,
    table: "pl.LazyFrame",
    rules: Rules,
    folder: Path,
    say: Callable[[str], None] = lambda _sentence: None,
    screened: Path | None = None,
    run: Score = score_here,
) -> Settled:
    """Judge the scores, those that the classifier has to give included, and hand on what is sound.

    `table` is what `screen` left in the folder `screened` (None: in `folder`).

    Writes what `screen` does, and `rows.parquet` (the accepted rows, control tokens escaped if the
    recipe says so), `scores.json` (their distribution, the next run's reference) and, if the recipe
    says so, `quarantine_rows.parquet`, the quarantined rows as they are. `say` is told how it goes,
    `run` scores what has no score.
    """
    request = planned(table, rules.config)
    answers = score(rows, request, rules.config.classifier, say, run) if request else None
    table = _write(rows, _scored(table, answers, rules), rules, folder, screened or folder)
    write_accepted(rows, table, rules, folder)
    summary = distribution(sound_scores(table))
    (folder / SCORES).write_text(summary.model_dump_json() if summary else "null")
    return Settled(table, answers)


def _scored(
    table: "pl.LazyFrame", answers: Answers | None, rules: Rules
) -> "Iterator[pl.DataFrame]":
    """Yield a feature table with its scores, those that were asked for included, and what becomes of
    each row by them."""
    scores = answers.scores if answers else None

    def scored() -> "Iterator[pl.DataFrame]":
        return (with_scores(lines, rules.config, scores) for lines in parts(table))

    last = cut(scored(), rules.config)
    return (with_disposition(lines, rules.config, last) for lines in scored())


def _write(
    rows: Path,
    tables: "Iterable[pl.DataFrame]",
    rules: Rules,
    folder: Path,
    screened: Path | None = None,
) -> "pl.LazyFrame":
    """Write a feature table that comes in parts, with the `reasons` of each row, the quarantine, and
    excerpts of the first rows with each flaw: those in the folder `screened`, if given, of rows without
    a flaw in their scores. Returns the table."""
    import polars as pl

    examples = FirstRows()
    with writing(folder / FEATURES) as write:
        for lines in tables:
            lines = lines.with_columns(reasons(lines))
            examples.look(lines)
            write(lines)
    table = pl.scan_parquet(folder / FEATURES)
    write_quarantine(rows, table, examples.rows, rules, folder, screened)
    Ignored.beside(rows).write(folder)
    return table


def write_accepted(rows: Path, table: "pl.LazyFrame", rules: Rules, folder: Path) -> None:
    """Write the accepted rows, and those in quarantine if the recipe keeps them whole."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pq.read_schema(rows).append(pa.field("duplicate_of", pa.int64()))
    told = table.select("score", "duplicate_of", "disposition")
    with pq.ParquetWriter(folder / "rows.parquet", schema) as writer:
        for batch, lines in alongside(batches(rows), parts(told)):
            accepted = batch.with_columns(lines["score"], lines["duplicate_of"])
            accepted = _escaped(accepted.filter(lines["disposition"] == "accepted"), rules)
            writer.write_table(accepted.to_arrow().cast(writer.schema))
    if rules.config.quarantine_rows == "whole":
        _write_whole(rows, table, folder)


def _write_whole(rows: Path, table: "pl.LazyFrame", folder: Path) -> None:
    told = table.select("score", "reasons", "disposition")
    with writing(folder / WHOLE_ROWS) as write:
        for batch, lines in alongside(batches(rows), parts(told)):
            judged = batch.with_columns(lines["score"], lines["reasons"])
            write(judged.filter(lines["disposition"] == "quarantined"))


def _escaped(rows: "pl.DataFrame", rules: Rules) -> "pl.DataFrame":
    """Make plain text of control tokens typed inside messages, if the recipe says so.

    A zero-width space after the first character keeps the look and ends the token.
    """
    import polars as pl

    if rules.config.special_tokens != "escape":
        return rows
    broken = {token: f"{token[0]}\u200b{token[1:]}" for token in rules.control_tokens}
    content = pl.element().struct.field("content").str.replace_many(broken)
    return rows.with_columns(
        pl.col("messages").list.eval(pl.element().struct.with_fields(content.alias("content")))
    )


def counts(table: "pl.LazyFrame") -> dict[str, float]:
    """Return how many rows there are, by disposition and by flaw."""
    of = totals(table)
    return {
        "rows": of.rows,
        "accepted": of.accepted,
        "quarantined": of.quarantined,
        "filtered": of.filtered,
        **{f"flaws/{flaw}": rows for flaw, rows in sums(table, FLAWS).items()},
    }
