"""How scores are distributed: a compact record of a score column, and how far another one is from it.

The record is stored with an accepted dataset, so that the next one can be compared with it without
the scores themselves. Scores are finite: nulls and NaN are the caller's to leave out.
"""

from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    Scores = np.ndarray | pl.Series

STEPS = 1000  # between neighbouring quantiles lies 1/1000 of the scores


class Distribution(BaseModel):
    """A score column in short: how many scores and different scores there are, their mean, the share
    that bfloat16 holds exactly (0 to 1), and their quantiles at 0, 0.001, ... 1.

    `bf16_share` is 1 for a classifier run in bfloat16 and near 0 for float32 scores and those
    rounded to decimals; whole numbers up to 256 are exact in bfloat16 as well.

    Each quantile is a score that occurs, the smallest x with F(x) >= p (NumPy's "inverted_cdf").
    Interpolated ones lie between the scores: they smear ties, which bf16 is full of, and are off by
    1/count in small columns. Of these, by contrast, a share within 1/1001 of F(x) is at most x, for
    every x, whatever the ties and the count.
    """

    model_config = ConfigDict(frozen=True)

    count: int = Field(description="How many scores there are.")
    mean: float = Field(description="Their mean.")
    distinct: int = Field(description="How many different ones there are.")
    bf16_share: float = Field(description="The share that bfloat16 holds exactly, 0 to 1.")
    quantiles: Annotated[tuple[float, ...], Field(min_length=STEPS + 1, max_length=STEPS + 1)] = (
        Field(description="Their quantiles at 0, 0.001, ... 1; each is a score that occurs.")
    )


def distribution(scores: "Scores") -> Distribution | None:
    """Return the record of a score column, None if it is empty."""
    import numpy as np

    ordered = np.sort(np.asarray(scores, dtype=np.float64))
    count = len(ordered)
    if not count:
        return None
    # ceil(p * count) in whole numbers; np.quantile computes it in floats and is one off at times.
    ranks = (np.arange(STEPS + 1) * count + STEPS - 1) // STEPS
    return Distribution(
        count=count,
        mean=float(ordered.mean()),
        distinct=1 + int(np.count_nonzero(np.diff(ordered))),
        bf16_share=float(_in_bf16(ordered).mean()),
        quantiles=tuple(ordered[np.maximum(ranks - 1, 0)].tolist()),
    )


def psi(reference: Distribution, scores: "Scores") -> float:
    """Return the population stability index of `scores` (at least one), 0 (equal) and up.

    Σ (a - e) ln(a / e) over the reference's deciles, with the shares a of the scores and e of the
    reference in each (Siddiqi, Credit Risk Scorecards, 2006). By his rule of thumb it is small below
    0.1 and large above 0.25. Chance alone gives about (bins - 1)(1/n + 1/m) for n and m scores of
    the same distribution (Yurdakul, Statistical Properties of PSI, 2018): 0.18 for 100 and 100.

    So that an empty bin is not infinitely far away, each side gets one more score, spread over the
    bins as both sides are on average. Half a score in every bin, which is common, would pull a
    small column towards uniform shares, and away from a large one that is distributed alike.
    """
    import numpy as np

    edges = _decile_edges(reference)
    expected, actual = _shares(reference.quantiles, edges), _shares(scores, edges)
    middle = (expected + actual) / 2
    filled = middle > 0
    expected = ((expected * reference.count + middle) / (reference.count + 1))[filled]
    actual = ((actual * len(scores) + middle) / (len(scores) + 1))[filled]
    return float(np.sum((actual - expected) * np.log(actual / expected)))


def ks(reference: Distribution, scores: "Scores") -> float:
    """Return the two-sample Kolmogorov-Smirnov distance to `scores` (at least one), 0 to 1.

    The largest difference of the two cumulative distributions. That of the reference is known to
    1/1001 (see Distribution), so the distance is too; a column's distance to itself is below that.
    """
    import numpy as np
    from scipy.stats import ks_2samp

    # SciPy's p-value is not used (it would take the quantiles for a sample); this is its cheap one.
    compared = ks_2samp(reference.quantiles, np.asarray(scores, dtype=np.float64), method="asymp")
    return float(compared.statistic)


def _in_bf16(scores: "np.ndarray") -> "np.ndarray":
    """Tell which float64 values bfloat16 holds: it is the upper half of a float32."""
    import numpy as np

    with np.errstate(over="ignore"):
        single = scores.astype(np.float32)
    return (single == scores) & (single.view(np.uint32) & 0xFFFF == 0)


def _decile_edges(reference: Distribution) -> "np.ndarray":
    """Return the inner edges of the bins; a bin holds its upper edge, the outer two are open.

    Deciles that are equal become one, and the score that fills them gets a bin of its own. Without
    that, a reference of equal scores would have all that is lower in the same bin.
    """
    import numpy as np

    deciles, times = np.unique(
        reference.quantiles[STEPS // 10 : STEPS : STEPS // 10], return_counts=True
    )
    return np.sort(np.concatenate([deciles, np.nextafter(deciles[times > 1], -np.inf)]))


def _shares(scores: "Scores | tuple[float, ...]", edges: "np.ndarray") -> "np.ndarray":
    """Return the share of scores in each bin between `edges`, 0 to 1."""
    import numpy as np

    bins = np.searchsorted(edges, np.asarray(scores, dtype=np.float64), side="left")
    return np.bincount(bins, minlength=len(edges) + 1) / len(scores)
