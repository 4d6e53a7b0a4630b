"""How many rows there are in a feature table, and of which kinds."""

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import polars as pl

KINDS = ("accepted", "quarantined", "filtered")  # dispositions


class Totals(NamedTuple):
    """The rows of a dataset, those of each disposition, and those with a score, be it no number."""

    rows: int
    accepted: int
    quarantined: int
    filtered: int
    scored: int


def totals(table: "pl.LazyFrame") -> Totals:
    """Count the rows of a feature table with dispositions."""
    import polars as pl

    names = table.collect_schema().names()
    not_finite = pl.col("score_not_finite").sum() if "score_not_finite" in names else pl.lit(0)
    line = table.select(
        pl.len().alias("rows"),
        *((pl.col("disposition") == kind).sum().alias(kind) for kind in KINDS),
        scored=pl.col("score").count() + not_finite,
    ).collect(engine="streaming")
    return Totals(**{name: int(number) for name, number in line.row(0, named=True).items()})
