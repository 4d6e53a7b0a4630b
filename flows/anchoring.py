"""What the successors of a candidate will be judged by, kept with its version (see `retune.anchors`)."""

from typing import TYPE_CHECKING

from expectations.promotion import anchor
from expectations.promotion.decision import Decision
from retune.anchors import FILE, Measuring, carried_on, measuring, own_rows, written
from retune.recipe import Recipe
from retune.records import Anchored, AnchorFile, Chats, Pins, Scores
from retune.registry import RegisteredVersion, keep_anchor
from retune.temporary import temporary_folder
from retune.tracking import Run

if TYPE_CHECKING:
    import polars as pl


def keep(
    run: Run,
    version: RegisteredVersion,
    decision: Decision,
    anchored: Anchored | None,
    chats: Chats,
    scores: Scores,
    recipe: Recipe,
    pins: Pins,
) -> AnchorFile | None:
    """Log the candidate's anchor with the run, and note it with the version.

    One that serves already keeps its own (None): the same weights on other data are no other champion.
    A new anchor begins where a person is to promote the candidate, or has waived the former one. What
    is promoted without a person hands on the rows that it met, or the file that could not be had.
    """
    import polars as pl

    if pins.champion and pins.champion.version == version.number:
        return None
    by_itself = decision.outcome == "promote" and not recipe.promotion.anchor_waiver
    if anchored and anchored.missing and by_itself and pins.champion and pins.champion.anchor:
        keep_anchor(version, pins.champion.anchor)
        return pins.champion.anchor
    limit, by = recipe.evaluation.loss_rows, measuring(recipe, chats.tokenizer)
    rows = own_rows(chats.held_out, scores.outcomes, limit, by)
    goes_on = by_itself or anchor.passes(decision.judgement.verdicts)
    if anchored and not anchored.missing and goes_on:
        rows = carried_on(held(pl.read_parquet(anchored.rows), by), rows, limit)
    with temporary_folder() as folder:
        file = written(rows, folder / FILE, run.id)
        run.log_files(folder, (FILE,), "anchor")
    keep_anchor(version, file)
    return file


def held(rows: "pl.DataFrame", by: Measuring) -> "pl.DataFrame":
    """Return the rows whose question the dataset still has, with the loss that is to be held: that of
    the candidate if it is at least as good on all of them as the best champion so far; else with what
    the candidate is worse by."""
    import polars as pl

    met = rows.filter(pl.col("occurs"), pl.col("candidate").is_not_null())
    gained = (pl.col("loss") - pl.col("candidate")) * pl.col("tokens")
    if met.select(gained.sum() >= 0).item():
        return met.with_columns(loss="candidate", behind=pl.lit(0.0), engine=pl.lit(by.engine))
    return met.with_columns(behind=pl.col("candidate") - pl.col("loss"))
