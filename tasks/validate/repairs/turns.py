"""Repairs of turns: a frame with a line per message in, the same frame with fewer lines.

Columns are `row`, `role`, `content` and whatever else a message has. Rows keep their order, and a row
of which nothing would be left stays as it is: it is for the judge.
"""

from typing import TYPE_CHECKING

from expectations.data.messages import is_empty

if TYPE_CHECKING:
    import polars as pl

_MERGED = ("system", "user", "assistant")


def drop_empty_turns(lines: "pl.DataFrame") -> "pl.DataFrame":
    """Drop empty messages so that question and answer stay a pair.

    An empty message beside one of its role goes alone, as does an empty system prompt and what stands
    before the first question; any other takes its exchange with it, from the question to the next.
    """
    import polars as pl

    def beside(step: int) -> "pl.Expr":
        """Tell which messages have one of the same role, that is not empty, before or after them."""
        neighbour = [pl.col(name).shift(step) for name in ("row", "role", "_empty")]
        same = (pl.col("row") == neighbour[0]) & (pl.col("role") == neighbour[1])
        return (same & ~neighbour[2]).fill_null(False)

    role = pl.col("role").fill_null("")
    follows = (role.shift(1) == "user") & (pl.col("row") == pl.col("row").shift(1))
    lines = lines.with_columns(
        _empty=is_empty(pl.col("content").fill_null("")),
        _begins=(role == "user") & ~follows.fill_null(False),
    )
    if not lines["_empty"].any():
        return lines.drop("_empty", "_begins")
    lines = lines.with_columns(_exchange=pl.col("_begins").cum_sum().over("row"))
    alone = beside(1) | beside(-1) | (role == "system") | (pl.col("_exchange") == 0)
    lines = lines.with_columns(_costly=pl.col("_empty") & ~alone)
    exchange = pl.col("_costly").any().over("row", "_exchange") & (role != "system")
    return _without(lines.with_columns(_dropped=pl.col("_empty") | exchange))


def merge_same_role(lines: "pl.DataFrame") -> "pl.DataFrame":
    """Join neighbouring messages of one role by a blank line, if all else of them is equal; several
    answers of tools are several."""
    import polars as pl

    same = pl.col("role").is_in(_MERGED)
    for name in lines.columns:
        if name != "content":
            same &= pl.col(name).eq_missing(pl.col(name).shift(1))
    lines = lines.with_columns(_first=~same.fill_null(False))
    lines = lines.with_columns(_run=pl.col("_first").cum_sum())
    runs = lines.filter(~pl.col("_first"))["_run"].unique()
    joined = lines.filter(pl.col("_run").is_in(runs.implode())).group_by("_run")
    contents = joined.agg(_joined=pl.col("content").fill_null("").str.join("\n\n"))
    return (
        lines.filter("_first")
        .join(contents, on="_run", how="left", maintain_order="left")
        .with_columns(content=pl.coalesce("_joined", "content"))
        .drop("_first", "_run", "_joined")
    )


def trim_ends(lines: "pl.DataFrame") -> "pl.DataFrame":
    """Drop what assistant and tools say before the first question, and questions after the last
    answer; the system prompt stays."""
    import polars as pl

    role = pl.col("role").fill_null("")
    asks = role == "user"
    # Neighbours of an unknown role are not judged here: nothing is dropped beyond one.
    spoken = ~role.is_in(["system", "assistant", "tool"])
    leading = spoken.cum_sum().over("row") == 0
    trailing = (~asks).cum_sum(reverse=True).over("row") == 0
    dropped = (leading & role.is_in(["assistant", "tool"])) | (trailing & asks)
    return _without(lines.with_columns(_dropped=dropped))


def _without(lines: "pl.DataFrame") -> "pl.DataFrame":
    """Drop the lines marked `_dropped`, but of rows of which no conversation would be left."""
    import polars as pl

    answers = ~pl.col("_dropped") & (pl.col("role") == "assistant").fill_null(False)
    kept = ~pl.col("_dropped") | ~answers.any().over("row")
    return lines.filter(kept).select(pl.exclude("^_.*$"))
