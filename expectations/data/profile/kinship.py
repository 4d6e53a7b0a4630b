"""How far rows next to each other resemble each other.

The pieces of one long conversation, or what one person asked in a row, tell less than as many rows that
know nothing of each other: two slices of such a file differ by more than chance gives two samples.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from expectations.data.profile.table import Table

if TYPE_CHECKING:
    import numpy as np

_LAGS = 10  # rows apart that may still belong together
_MOST = 4.0  # a file that is sorted has neighbours that resemble each other to its end
_TYPICAL = 0.75  # of the numbers, the quantile that counts for all


def kinship(numbers: Table, names: Iterable[str]) -> float:
    """Return how many rows tell as much as one that stands alone, from 1 (no neighbours resemble each
    other) to 4: the design effect of the named columns' ranks, by their autocorrelation."""
    import numpy as np

    if len(numbers) <= _LAGS:
        return 1.0
    effects = [_effect(numbers[name].rank("average").to_numpy()) for name in names]
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
