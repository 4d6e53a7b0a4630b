"""Histograms: round bins, and how much of a column is in each; what draws them is elsewhere."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

BINS = 60  # at most, about
_NEAR = 3  # values on each side of an edge that tell how far those next to it are spread


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

    ordered = np.sort(values)
    width = edges[1] - edges[0]
    below = np.array([_below(edge, ordered, width) for edge in edges])
    return 100 * np.diff(below) / len(ordered)


def _below(edge: float, ordered: "np.ndarray", width: float) -> float:
    """Return how many of the values are below an edge, with those that are spread over it in part."""
    import numpy as np

    around = _around(edge, ordered)
    reached = np.searchsorted(ordered, around, side="right")
    gaps = np.minimum(np.diff(around), width) / 2
    if not len(gaps):
        gaps = np.array([width / 2])
    starts = around - np.concatenate([gaps[:1], gaps])[: len(around)]
    ends = around + np.concatenate([gaps, gaps[-1:]])[: len(around)]
    knots = np.column_stack([starts, ends]).ravel()
    times = np.searchsorted(ordered, around, side="left")
    return float(np.interp(edge, knots, np.column_stack([times, reached]).ravel()))


def _around(edge: float, ordered: "np.ndarray") -> "np.ndarray":
    """Return the different values next to an edge: up to three on each side."""
    import numpy as np

    found: list[float] = []
    place = int(np.searchsorted(ordered, edge))
    while place > 0 and len(found) < _NEAR:
        found.insert(0, ordered[place - 1])
        place = int(np.searchsorted(ordered, found[0]))
    place, above = int(np.searchsorted(ordered, edge)), 0
    while place < len(ordered) and above < _NEAR:
        found.append(ordered[place])
        place, above = int(np.searchsorted(ordered, found[-1], side="right")), above + 1
    return np.array(found)
