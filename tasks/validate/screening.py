"""From a Parquet file of rows to what is handed on of them: `screen` looks at every row, `settle` at
its score too. Neither knows a limit of the gate: `expectations.data` judges.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from expectations.data.batches import BATCH_BYTES, batches
from expectations.data.excerpts import LENGTH, excerpts, no_excerpts
from expectations.data.features import (
    features,
    reasons,
    sound_scores,
    unscored,
    with_disposition,
    with_scores,
)
from expectations.data.findings import EXAMPLES
from expectations.data.masking import masked
from expectations.data.measures import NOTHING, Asked
from expectations.data.messages import Rules
from expectations.data.profile.looks import write_looks
from expectations.data.scores import distribution
from retune.ignored import Ignored
from retune.recipe.flaws import FLAWS, SCORE_FLAWS
from tasks.validate.classifier import Answers, planned, score

if TYPE_CHECKING:
    import polars as pl

FEATURES, EXCERPTS = "features.parquet", "examples.parquet"
# What goes to MLflow; small and without secrets.
QUARANTINE, SCORES = "quarantine.parquet", "scores.json"
WHOLE_ROWS = "quarantine_rows.parquet"  # stays in the work folder: it holds what the rows say


def screen(rows: Path, rules: Rules, folder: Path) -> "pl.DataFrame":
    """Judge every row of a Parquet file by itself and against the others; ask for no score.

    Writes `features.parquet` (the feature table, see `expectations.data.features`), with the
    `disposition` of each row, `examples.parquet` (excerpts of some rows with each flaw) and
    `quarantine.parquet` (`row`, `source`, `score`, `reasons`, `place` of the message to blame and
    `excerpt`). What quotes a row is masked (`expectations.data.masking`). The profile's files are
    written beside (`expectations.data.profile.looks`), and what the source has and no row
    (`ignored.json`). Returns the table.
    """
    table = unscored(features(rows, rules), rules.config)
    # Of a source only its masked name is kept; `source_id` tells sources apart.
    table = table.with_columns(masked(table["source"]).str.head(LENGTH).alias("source"))
    _write(rows, table, rules, folder)
    write_looks(rows, table, rules.config, folder)
    return table


class Settled(NamedTuple):
    """The feature table with the final dispositions, and what the classifier was asked, if it was."""

    table: "pl.DataFrame"
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
    table: "pl.DataFrame",
    rules: Rules,
    folder: Path,
    say: Callable[[str], None] = lambda _sentence: None,
    screened: Path | None = None,
) -> Settled:
    """Judge the scores, those that the classifier has to give included, and hand on what is sound.

    `table` is what `screen` left in the folder `screened` (None: in `folder`).

    Writes what `screen` does, and `rows.parquet` (the accepted rows, control tokens escaped if the
    recipe says so), `scores.json` (their distribution, the next run's reference) and, if the recipe
    says so, `quarantine_rows.parquet`, the quarantined rows as they are. `say` is told how it goes.
    """
    request = planned(table, rules.config)
    answers = score(rows, request, rules.config.classifier, say) if request else None
    table = with_scores(table, rules.config, answers.scores if answers else None)
    table = with_disposition(table, rules.config)
    _write(rows, table, rules, folder, screened or folder)
    write_accepted(rows, table, rules, folder)
    summary = distribution(sound_scores(table))
    (folder / SCORES).write_text(summary.model_dump_json() if summary else "null")
    return Settled(table, answers)


def _write(
    rows: Path, table: "pl.DataFrame", rules: Rules, folder: Path, screened: Path | None = None
) -> None:
    """Write the table, the quarantine, and excerpts of the first rows with each flaw.

    Of rows without a flaw in their scores, the excerpts are those in the folder `screened`, if given.
    """
    import polars as pl

    table = table.with_columns(reasons(table))
    table.write_parquet(folder / FEATURES)
    examples = pl.concat(
        [table.filter(pl.col(flaw)).head(EXAMPLES)["row"] for flaw in FLAWS]
    ).unique()
    example = table["row"].is_in(examples.implode())
    flawed = table["disposition"] == "quarantined"
    anew = (flawed | example) & (
        table.select(pl.any_horizontal(*SCORE_FLAWS)).to_series() if screened else True
    )
    texts = _excerpts(rows, table, anew, example, rules)
    shown = texts.filter(pl.col("row").is_in(examples.implode()))
    first = texts.unique("row", keep="first", maintain_order=True).drop("reason")
    if screened:
        earlier = pl.col("row").is_in(table["row"].filter(anew).implode()).not_()
        known = pl.read_parquet(screened / EXCERPTS).filter(earlier)
        known = known.filter(pl.col("row").is_in(examples.implode()))
        shown = pl.concat([shown, known]).sort("row", maintain_order=True)
        quarantined = pl.read_parquet(screened / QUARANTINE).filter(earlier)
        first = pl.concat([first, quarantined.select(first.columns)])
    quarantine = table.filter(flawed).select("row", "source", "score", "reasons")
    quarantine = quarantine.join(first, on="row", how="left", maintain_order="left")
    shown.write_parquet(folder / EXCERPTS)
    quarantine.write_parquet(folder / QUARANTINE)
    Ignored.beside(rows).write(folder)


def _excerpts(
    rows: Path, table: "pl.DataFrame", wanted: "pl.Series", example: "pl.Series", rules: Rules
) -> "pl.DataFrame":
    """Return excerpts of the rows that are `wanted`: of an `example` for each of its flaws, of the
    others, which only the quarantine lists, for the first one."""
    import polars as pl

    first = pl.col("reasons").list.first()
    table = table.with_columns(pl.col(flaw) & (example | (first == flaw)) for flaw in FLAWS)
    texts = (
        excerpts(batch, table.filter(pl.col("row").is_in(batch["row"].implode())), rules)
        for batch in _selected(rows, wanted)
    )
    return pl.concat([no_excerpts(), *texts])


def _selected(rows: Path, wanted: "pl.Series") -> "Iterator[pl.DataFrame]":
    """Yield the rows that are `wanted`, as many at a time as a batch holds."""
    import polars as pl

    held, offset = [], 0
    for batch in batches(rows) if wanted.any() else ():
        held.append(batch.filter(wanted[offset : offset + len(batch)]))
        offset += len(batch)
        if offset == len(wanted) or sum(part.estimated_size() for part in held) >= BATCH_BYTES:
            yield pl.concat(held, rechunk=True)
            held = []


def write_accepted(rows: Path, table: "pl.DataFrame", rules: Rules, folder: Path) -> None:
    """Write the accepted rows, and those in quarantine if the recipe keeps them whole."""
    import polars as pl
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = table.with_columns(reasons(table))
    schema = pq.read_schema(rows).append(pa.field("duplicate_of", pa.int64()))
    whole_rows, offset = [], 0
    with pq.ParquetWriter(folder / "rows.parquet", schema) as writer:
        for batch in batches(rows):
            lines = table[offset : offset + len(batch)]
            offset += len(batch)
            accepted = batch.with_columns(lines["score"], lines["duplicate_of"])
            accepted = _escaped(accepted.filter(lines["disposition"] == "accepted"), rules)
            writer.write_table(accepted.to_arrow().cast(writer.schema))
            if rules.config.quarantine_rows == "whole":
                judged = batch.with_columns(lines["score"], lines["reasons"])
                whole_rows.append(judged.filter(lines["disposition"] == "quarantined"))
    if whole_rows:
        pl.concat(whole_rows).write_parquet(folder / WHOLE_ROWS)


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


def counts(table: "pl.DataFrame") -> dict[str, float]:
    """Return how many rows there are, by disposition and by flaw."""
    disposition = table["disposition"]
    return {
        "rows": len(table),
        **{
            name: int((disposition == name).sum())
            for name in ("accepted", "quarantined", "filtered")
        },
        **{f"flaws/{flaw}": int(table[flaw].sum()) for flaw in FLAWS},
    }
