"""Histograms: round bins, and how much of a column is in each; what draws them is elsewhere."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

BINS = 60  # at most, about


def edges_of(values: "np.ndarray") -> "np.ndarray":
    """Return the edges of about BINS bins of one round width, centred on multiples of it."""
    import numpy as np

    low, high = float(values.min()), float(values.max())
    if low == high:
        margin = max(abs(low), 1) / 2
        low, high = low - margin, high + margin
    raw = (high - low) / BINS
    power = 10.0 ** np.floor(np.log10(raw))
    width = next(step * power for step in (1, 2, 2.5, 5, 10, 20) if step * power >= raw)
    return (np.arange(np.floor(low / width), np.ceil(high / width) + 2) - 0.5) * width


def shares_in(values: "np.ndarray", edges: "np.ndarray") -> "np.ndarray":
    """Return the share of `values` (at least one) in each of the equal bins, in percent.

    Scores in bfloat16 or in decimals, and lengths, lie on a grid. Where bins hold now three and now
    four of its steps, a histogram shows a comb that is not in the data. So each value is spread as
    far as half-way to its neighbours, over at most one bin.
    """
    import numpy as np

    distinct, times = np.unique(values, return_counts=True)
    width = edges[1] - edges[0]
    gaps = np.minimum(np.diff(distinct), width) / 2
    if not len(gaps):
        gaps = np.array([width / 2])
    starts = distinct - np.concatenate([gaps[:1], gaps])[: len(distinct)]
    ends = distinct + np.concatenate([gaps, gaps[-1:]])[: len(distinct)]
    reached = np.cumsum(times)
    knots = np.column_stack([starts, ends]).ravel()
    below = np.column_stack([reached - times, reached]).ravel()
    return 100 * np.diff(np.interp(edges, knots, below)) / len(values)
