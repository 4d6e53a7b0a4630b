"""The dataset as a whole, in one line of numbers: what the dataset expectations judge."""

from math import inf
from typing import TYPE_CHECKING

from expectations.data.features import sound_scores
from expectations.data.scores import Distribution, distribution, ks, psi
from retune.config import Validation

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
    """Return one number per dataset expectation, by the expectation's name.

    `table` is the feature table with dispositions, `reference` the scores of the last accepted run,
    `agreement` the share of re-scored rows that agree; expectations without (enough of) these are
    missing.
    Scores are those of the sound rows before the filter; where there is none at all, no limit on
    them is met.
    """
    rows = len(table)
    disposition, scores = table["disposition"], sound_scores(table)
    sources = table.filter(disposition == "accepted")["source_id"].value_counts()
    of_sources = sources["count"].to_numpy()
    found: dict[str, float] = {
        "min_rows": int((disposition == "accepted").sum()),
        "max_quarantined_share": int((disposition == "quarantined").sum()) / rows,
        "max_source_share": int(of_sources.max(initial=0)) / max(int(of_sources.sum()), 1),
        "score_mean_min": -inf,
        "score_mean_max": inf,
        "min_distinct_scores": 0,
        "max_below_threshold_share": 1.0,
    }
    new = distribution(scores)
    if new is not None:
        found |= {"score_mean_min": new.mean, "score_mean_max": new.mean}
        found["min_distinct_scores"] = new.distinct
        if config.score_threshold is not None:
            below = int((scores < config.score_threshold).sum())
            found["max_below_threshold_share"] = below / len(scores)
        if reference is not None and min(reference.count, new.count) >= LEAST_FOR_DRIFT:
            found |= {"max_psi": psi(reference, scores), "max_ks": ks(reference, scores)}
    if agreement is not None:
        found["min_agreement"] = agreement
    return found
