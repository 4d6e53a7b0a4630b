"""Averages of a column as numbers; of an empty one, 0."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl


def mean(values: "pl.Series") -> float:
    """Return the mean of numbers or truth values, nulls left out."""
    import numpy as np

    present = values.drop_nulls().to_numpy()
    return float(np.mean(present)) if len(present) else 0.0


def median(values: "pl.Series") -> float:
    """Return the median of numbers, nulls left out."""
    import numpy as np

    present = values.drop_nulls().to_numpy()
    return float(np.median(present)) if len(present) else 0.0


def correlation(first: "pl.Series", second: "pl.Series") -> float:
    """Return Pearson's correlation of two columns, 0 where one of them does not vary."""
    import numpy as np

    one, other = (values.to_numpy().astype(np.float64) for values in (first, second))
    if not len(one):
        return 0.0
    one -= one.mean()
    other -= other.mean()
    scale = np.sqrt((one @ one) * (other @ other))
    return round(float(one @ other / scale), 4) if scale else 0.0
