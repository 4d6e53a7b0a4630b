"""Which rows the classifier scores, and whether the stored scores agree with it."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from expectations.data.features import is_sound
from expectations.data.measures import Asked
from expectations.data.tables import column
from retune.home import home
from retune.recipe import Classifier, Validation
from tasks.validate.scoring import Score, agreement, correlation, sample, score_here, score_rows

if TYPE_CHECKING:
    import polars as pl


class ScoringRequest(NamedTuple):
    """The rows to give a score, and those whose stored score (`row`, `score`) is checked."""

    unscored: "pl.Series"
    checked: "pl.DataFrame"


def planned(table: "pl.LazyFrame", config: Validation) -> ScoringRequest | None:
    """Return what the recipe asks of the classifier for a feature table; None if nothing.

    Only sound rows are scored: the others are not trained on.
    """
    import polars as pl

    policy = config.classifier.score
    sound = table.filter(is_sound(table, config)).select("row", "score")
    unscored, stored = sound.clear(), sound.filter(pl.col("score").is_finite())
    if policy == "all":
        unscored, stored = sound, stored.clear()
    elif policy == "missing" or (
        policy == "absent" and config.score_required and not _has_scores(table)
    ):
        unscored = sound.filter(pl.col("score").is_null())
    rows = column(unscored, "row")
    chosen = pl.Series(
        sample(column(stored, "row"), config.classifier.sample) if config.classifier.sample else [],
        dtype=pl.Int64,
    )
    checked = stored.filter(pl.col("row").is_in(chosen.implode())).collect(engine="streaming")
    if rows.is_empty() and checked.is_empty():
        return None
    return ScoringRequest(rows, checked)


def _has_scores(table: "pl.LazyFrame") -> bool:
    import polars as pl

    return bool(table.select(pl.col("score").count()).collect(engine="streaming").item())


class Answers(NamedTuple):
    """The scores (`row`, `score`) of the unscored rows, the classifier's version, the share of the
    checked rows whose stored score agrees, and the rank correlation of both (None if none, or too
    few, are checked)."""

    scores: "pl.DataFrame"
    version: str
    agreement: float | None
    correlation: float | None

    @property
    def asked(self) -> Asked:
        return Asked(len(self.scores), self.agreement, self.correlation)


def score(
    rows: Path,
    request: ScoringRequest,
    config: Classifier,
    say: Callable[[str], None],
    run: Score = score_here,
) -> Answers:
    """Return what the classifier says of the rows that it is asked about; `run` scores them.

    Finished shards stay in the home folder: what was scored once is not scored again, by any run.
    """
    import polars as pl

    numbers = pl.concat([request.unscored, request.checked["row"]])
    scored = score_rows(rows, numbers, config, home() / "scores", say, run)
    say(f"scored {len(numbers):,} rows with {config.model} at {scored.version}")
    new = scored.scores.filter(pl.col("row").is_in(request.unscored.implode()))
    again = scored.scores.filter(pl.col("row").is_in(request.checked["row"].implode()))
    agree = agreement(request.checked, again, config.tolerance) if len(again) else None
    return Answers(new, scored.version, agree, correlation(request.checked, again))
