"""The dataset as a whole, in one line of numbers: what the dataset expectations judge."""

from math import nan
from typing import TYPE_CHECKING

from expectations.data.features import sound_scores
from expectations.data.mix import parts
from expectations.data.scores import Distribution, distribution, ks, psi
from retune.recipe import Validation

if TYPE_CHECKING:
    import polars as pl

# Of two samples of 100 from one distribution every fifth pair has a PSI above 0.25 or a KS distance
# above 0.15; of 300, one in a thousand (1,000 pairs each).
LEAST_FOR_DRIFT = 300


def measures(
    table: "pl.DataFrame",
    config: Validation,
    reference: Distribution | None = None,
    agreement: float | None = None,
) -> dict[str, float]:
    """Return what the dataset expectations judge, by the measure's name.

    `table` is the feature table with dispositions, `reference` the scores of the last accepted run,
    `agreement` the share of re-scored rows that agree; measures without (enough of) these are
    missing. Scores are those of the sound rows before the filter; where there is none at all, what is
    measured of them is NaN.
    """
    rows = len(table)
    disposition, scores = table["disposition"], sound_scores(table)
    sources = table.filter(disposition == "accepted")["source_id"].value_counts()
    of_sources = sources["count"].to_numpy()
    numbers: dict[str, float] = {
        "accepted": int((disposition == "accepted").sum()),
        "quarantined_share": int((disposition == "quarantined").sum()) / rows,
        "largest_source_share": int(of_sources.max(initial=0)) / max(int(of_sources.sum()), 1),
    }
    if "part" in table.columns:
        numbers["part_quarantined_share"] = max(part.quarantined_share for part in parts(table))
    new = distribution(scores)
    below = config.score_threshold
    numbers["score_mean"] = new.mean if new else nan
    numbers["score_distinct"] = new.distinct if new else nan
    if below is not None:
        share = int((scores < below).sum()) / len(scores) if new else nan
        numbers["score_below_threshold_share"] = share
    if new and reference and min(reference.count, new.count) >= LEAST_FOR_DRIFT:
        numbers |= {"score_psi": psi(reference, scores), "score_ks": ks(reference, scores)}
    if agreement is not None:
        numbers["score_agreement"] = agreement
    return numbers
