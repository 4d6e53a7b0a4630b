"""Judging the few lines of a table that a cheap look lets through."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl


def confirmed(
    table: "pl.DataFrame", suspect: "pl.Expr | pl.Series", check: "pl.Expr"
) -> "pl.Series":
    """Return for each line of a table whether `check` holds, asked only for those that are `suspect`
    (polars itself computes both branches of a condition for every line)."""
    import polars as pl

    mask = suspect if isinstance(suspect, pl.Series) else table.select(suspect).to_series()
    mask = mask.fill_null(False).clone()  # what was handed in stays as it is
    if not mask.any():  # patterns take their time to be built
        return mask
    verdicts = table.filter(mask).select(check.fill_null(False)).to_series()
    return mask.scatter(mask.arg_true(), verdicts)
