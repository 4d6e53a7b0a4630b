"""Thresholds for a recipe, taken from a dataset that is known to be good."""

from math import ceil, floor
from typing import TYPE_CHECKING, Any

from expectations.data.features import sound_scores, with_disposition
from expectations.data.scores import distribution
from retune.recipe import Validation
from retune.recipe.flaws import FLAWS

if TYPE_CHECKING:
    import polars as pl

ROOM = 1.5  # how many times the flaws of the good dataset a later one may have
LEAST_ROOM = 0.005  # share of rows; what the good dataset has once, a later one may have twice
FEWER_ROWS = 0.8  # share of the good dataset's rows that a later one must have
LONGER = 2  # times the longest message
STEPS_OF_STD = 0.5  # how far the mean score may move, in standard deviations


def thresholds(table: "pl.DataFrame") -> dict[str, Any]:
    """Return the section `validation` of a recipe, as far as it differs from the defaults.

    `table` is the feature table of the good dataset, with scores (see `expectations.data.features`).
    Datasets like it pass with some room: half as many flaws more, a mean score within half a
    standard deviation, the 5 % quantile no lower than that.
    """
    defaults = Validation()
    scores = sound_scores(with_disposition(table, defaults))
    if scores.is_empty():
        table = table.with_columns(score_missing=False)
    disposition = with_disposition(table, defaults)["disposition"]
    shares = {flaw: int(table[flaw].sum()) / len(table) for flaw in FLAWS}
    quarantined = int((disposition == "quarantined").sum()) / len(table)
    settings: dict[str, Any] = {
        "min_rows": max(1, floor(FEWER_ROWS * int((disposition == "accepted").sum()))),
        "max_quarantined_share": _with_room(quarantined),
        "max_message_chars": _rounded_up(LONGER * max((1, *table["chars"].drop_nulls()))),
        "tolerances": {
            flaw: _with_room(share)
            for flaw, share in shares.items()
            if share and not flaw.startswith("score_")
        },
    }
    sources = table["source"].value_counts()["count"].to_list()
    if len(sources) > 1:
        settings["max_source_share"] = _with_room(max(sources) / sum(sources))
    return settings | _score_thresholds(scores)


def _score_thresholds(scores: "pl.Series") -> dict[str, Any]:
    summary = distribution(scores)
    if summary is None:
        return {"score_required": False}
    defaults = Validation()
    low, high = summary.quantiles[0], summary.quantiles[-1]
    step = STEPS_OF_STD * (float(scores.to_numpy().std(ddof=1)) if len(scores) > 1 else 0.0)
    return {
        "score_min": min(defaults.score_min, floor(low)),
        "score_max": max(defaults.score_max, ceil(high)),
        "score_mean_min": round(summary.mean - step, 3),
        "score_mean_max": round(summary.mean + step, 3),
        "score_quantiles_min": {0.05: round(summary.quantiles[50] - step, 3)},
        "min_distinct_scores": min(defaults.min_distinct_scores, summary.distinct),
    }


def _with_room(share: float) -> float:
    return min(1.0, ceil(1000 * max(ROOM * share, share + LEAST_ROOM)) / 1000)


def _rounded_up(number: int) -> int:
    """Return a round number that is not smaller, e.g. 20,000 for 13,579."""
    unit = 10 ** max(0, len(str(number)) - 1)
    return ceil(number / unit) * unit
