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
