"""How far rows next to each other resemble each other.

The pieces of one long conversation, or what one person asked in a row, tell less than as many rows that
know nothing of each other: two slices of such a file differ by more than chance gives two samples.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

_LAGS = 10  # rows apart that may still belong together
_MOST = 4.0  # a file that is sorted has neighbours that resemble each other to its end
_TYPICAL = 0.75  # of the numbers, the quantile that counts for all


def kinship(numbers: "pl.DataFrame") -> float:
    """Return how many rows tell as much as one that stands alone, from 1 (no neighbours resemble each
    other) to 4: the design effect of the columns' ranks, by their autocorrelation."""
    import numpy as np
    from scipy.stats import rankdata

    if len(numbers) <= _LAGS:
        return 1.0
    effects = [_effect(rankdata(column.to_numpy())) for column in numbers]
    return min(_MOST, float(np.quantile(effects, _TYPICAL)))


def _effect(ranks: "np.ndarray") -> float:
    import numpy as np

    count, centred = len(ranks), ranks - ranks.mean()
    variance = centred @ centred
    if not variance:
        return 1.0
    effect = 1.0
    for lag in range(1, _LAGS + 1):
        alike = centred[lag:] @ centred[:-lag] / variance
        if alike < 2 / np.sqrt(count):  # what chance gives
            break
        effect += 2 * alike
    return float(effect)
