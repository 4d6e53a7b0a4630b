"""The rows of the anchor as they are measured: which count, whose losses are known, what came of it."""

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from retune.anchors import AnchorGone, Measuring
from retune.outcomes import CHAMPION, LOSS, TUNED, Outcome, example_name
from retune.recipe.evaluation import ANCHOR
from retune.row_losses import RowLoss

if TYPE_CHECKING:
    import polars as pl


def comparable(rows: "pl.DataFrame", by: Measuring) -> "pl.DataFrame":
    """Return the rows that tell something of a candidate: those that it did not learn, of its own tokens.

    Raises AnchorGone if none is left.
    """
    import polars as pl

    met = rows.filter(~pl.col("leaked"), pl.col("rendering") == by.rendering)
    if met.is_empty():
        counts = counted(rows, by)
        raise AnchorGone(
            f"of its {len(rows):,} rows none is left: {counts['leaked_rows']:,} are among the "
            f"candidate's training rows, {counts['foreign_rows']:,} were written by another tokenizer or "
            f"chat template"
        )
    return met


def counted(rows: "pl.DataFrame", by: Measuring) -> dict[str, int]:
    """Return how many rows leave, and how many questions the dataset answers, and answers otherwise."""
    import polars as pl

    return {
        "leaked_rows": int(rows["leaked"].sum()),
        "foreign_rows": len(rows.filter(~pl.col("leaked"), pl.col("rendering") != by.rendering)),
        "questions": int(rows["occurs"].sum()),
        "changed_answers": len(rows) - rows["now"].null_count(),
    }


def is_recorded(rows: "pl.DataFrame", by: Measuring) -> bool:
    """Tell whether all losses of the champion were taken as they would be taken now."""
    recorded = with_losses(rows, by)
    return len(recorded) == len(rows) and bool((recorded["engine"] == by.engine).all())


def with_losses(rows: "pl.DataFrame", by: Measuring) -> "pl.DataFrame":
    """Return the rows with a loss of the champion's by the same limits, whatever the engine was."""
    import polars as pl

    return rows.filter(pl.col("loss").is_not_null(), pl.col("limits") == by.limits)


def measured_anew(rows: "pl.DataFrame", losses: Sequence[RowLoss], by: Measuring) -> "pl.DataFrame":
    """Return the rows with these losses of the champion, less what it was worse than the best one so far,
    instead of those recorded.

    Raises AnchorGone if no row has a token to be learnt.
    """
    import polars as pl

    measured = rows.with_columns(
        loss=_means(losses) - pl.col("behind"),
        tokens=pl.Series([loss.tokens for loss in losses], dtype=pl.Int64),
        limits=pl.lit(by.limits),
        engine=pl.lit(by.engine),
    ).filter(pl.col("loss").is_not_null())
    if measured.is_empty():
        raise AnchorGone(
            f"none of its {len(rows):,} rows has a token to be learnt within model.max_length"
        )
    return measured


def of_both(rows: "pl.DataFrame", losses: Sequence[RowLoss]) -> "pl.DataFrame":
    """Return the rows with the candidate's losses as `candidate`; one without a token to be learnt
    leaves."""
    import polars as pl

    return rows.with_columns(candidate=_means(losses)).filter(pl.col("candidate").is_not_null())


def outcomes(rows: "pl.DataFrame") -> Iterator[Outcome]:
    """Yield the outcome of each row by either."""
    for side, column in ((TUNED, "candidate"), (CHAMPION, "loss")):
        for row in rows.iter_rows(named=True):
            said = [{"role": one["role"], "content": one["content"]} for one in row["messages"]]
            yield Outcome(
                side=side,
                suite=ANCHOR,
                slice=row["source"],
                example=example_name(said, LOSS),
                prompt=json.dumps(said, ensure_ascii=False),
                expected="",
                answer=None,
                stopped=None,
                tokens=row["tokens"],
                seconds=None,
                grades={LOSS: row[column]},
            )


def mean_losses(rows: "pl.DataFrame") -> dict[str, float]:
    """Return the loss of either over all rows (nats per token)."""
    tokens = rows["tokens"]
    return {
        f"loss/{side}": float((rows[column] * tokens).sum()) / float(tokens.sum())
        for side, column in ((TUNED, "candidate"), (CHAMPION, "loss"))
    }


def _means(losses: Sequence[RowLoss]) -> "pl.Series":
    import polars as pl

    values = [loss.nats / loss.tokens if loss.tokens else None for loss in losses]
    return pl.Series(values, dtype=pl.Float64)
