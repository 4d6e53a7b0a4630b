"""The dataset as a whole, in one line of numbers: what the dataset expectations judge."""

from math import nan
from typing import TYPE_CHECKING, NamedTuple

from expectations.data.features import sound_scores
from expectations.data.scores import Distribution, distribution, ks, psi
from expectations.data.tables import column, occurrences
from expectations.data.totals import totals
from retune.recipe import Validation

if TYPE_CHECKING:
    import polars as pl

# Of two samples of 100 from one distribution every fifth pair has a PSI above 0.25 or a KS distance
# above 0.15; of 300, one in a thousand (1,000 pairs each).
LEAST_FOR_DRIFT = 300
LEAST_FOR_ONE_VALUE = 20  # of fewer scores it may be chance, if they are whole numbers
# Of 100 scores of short and simple conversations by a classifier of 0 to 6 some are below 0 or above 1.
LEAST_FOR_A_SCALE, LONG_SCALE = 100, 5


class Asked(NamedTuple):
    """What the classifier was asked: how many rows it `scored`, and of the rows that it scored again
    the share whose stored score agrees and the rank correlation of both, -1 to 1; None: not known."""

    scored: int = 0
    agreement: float | None = None
    correlation: float | None = None


NOTHING = Asked()


def measures(
    table: "pl.LazyFrame",
    config: Validation,
    reference: Distribution | None = None,
    asked: Asked = NOTHING,
) -> dict[str, float]:
    """Return what the dataset expectations judge, by the measure's name.

    `table` is the feature table with dispositions, `reference` the scores of the last accepted run,
    `asked` what the classifier said; measures without (enough of) these are
    missing. Scores are those of the sound rows before the filter; where there is none at all, what is
    measured of them is NaN.
    """
    import polars as pl

    of, scores = totals(table), sound_scores(table)
    numbers: dict[str, float] = {
        "accepted": of.accepted,
        "quarantined_share": of.quarantined / of.rows,
        "largest_source_share": _largest_source(table) / max(of.accepted, 1),
    }
    if "part" in table.collect_schema():
        quarantined = pl.col("disposition") == "quarantined"
        shares = table.group_by("part").agg(quarantined.mean().alias("share"))
        numbers["part_quarantined_share"] = float(column(shares, "share").to_numpy().max())
    new = distribution(scores)
    below = config.score_threshold
    numbers["score_mean"] = new.mean if new else nan
    numbers["score_distinct"] = new.distinct if new else nan
    if below is not None:
        share = int((scores < below).sum()) / len(scores) if new else nan
        numbers["score_below_threshold_share"] = share
    if new and reference and min(reference.count, new.count) >= LEAST_FOR_DRIFT:
        numbers |= {"score_psi": psi(reference, scores), "score_ks": ks(reference, scores)}
    if asked.agreement is not None:
        numbers["score_agreement"] = asked.agreement
    if asked.correlation is not None:
        numbers["score_correlation"] = asked.correlation
    if len(scores) >= LEAST_FOR_ONE_VALUE:
        numbers["score_mode_share"] = int(occurrences(scores.to_numpy()).max()) / len(scores)
    if _has_a_scale(scores, config, reference, asked):
        numbers["score_unit_share"] = int(scores.is_between(0, 1).sum()) / len(scores)
    return numbers


def _largest_source(table: "pl.LazyFrame") -> int:
    """Return the accepted rows of the source that has most of them."""
    import polars as pl

    accepted = table.filter(pl.col("disposition") == "accepted").group_by("source_id").len()
    return int(accepted.select(pl.col("len").max()).collect(engine="streaming").item() or 0)


def _has_a_scale(
    scores: "pl.Series", config: Validation, reference: Distribution | None, asked: Asked
) -> bool:
    """Tell whether the scores can be told from probabilities: enough stored ones, on a long scale, of
    which those of the last accepted run fill more than 0 to 1."""
    enough = len(scores) - asked.scored >= LEAST_FOR_A_SCALE and config.score_max >= LONG_SCALE
    return enough and not (reference and _in_unit(reference))


def _in_unit(reference: Distribution) -> bool:
    low, high = reference.quantiles[1], reference.quantiles[-2]
    return 0 <= low <= high <= 1
