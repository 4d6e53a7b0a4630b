"""Whether many answers stop just below one number of words, and few go on behind it: cut there, back to
the end of a sentence, so that no single text shows it."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from expectations.data.profile.questions import LONGEST
from expectations.data.profile.shapes import Group

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

_BAND = 1.15  # the widest number of words of a band, as a multiple of its least
_LEAST_WORDS = 30
_STEPS = 150  # numbers of words that are tried, in equal ratios
_SIGNIFICANT = 4.5  # standard errors between the band below the limit and either one beside it
_BUMP, _BEYOND = 2.0, 0.2  # times as many as in either; share of answers that are longer still
_SPREAD = 4.0  # from the shortest tenth to the longest; texts of one kind have some usual lengths
_SHARE = 0.08


def lengths(frame: "pl.DataFrame") -> Iterator[Group]:
    """Yield the answers just below the number of words where most stop: `frame` has `answer`."""
    import numpy as np
    import polars as pl

    answer = pl.col("answer")
    whole = (answer.str.len_chars() < LONGEST) & ~answer.is_duplicated()
    words = frame.select(pl.when(whole).then(answer.str.count_matches(r"\S+"))).to_series()
    longest = float(LONGEST)  # of one that goes on behind what is looked at
    counts = words.fill_null(longest).to_numpy().astype(np.float64)
    significance, most = max((_step(np.sort(counts), limit), limit) for limit in _limits())
    near = (counts <= most) & (counts > most / _BAND)
    texts = counts[counts >= _LEAST_WORDS]  # labels beside them make no texts more varied
    short, long = np.quantile(texts, [0.1, 0.9]) if len(texts) else (1.0, 1.0)
    is_cut = significance >= _SIGNIFICANT and long >= _SPREAD * short
    group = near if is_cut else near & False
    yield Group(f"stop just below {most} words, where few go on", _SHARE, group, "end")


def _limits() -> list[int]:
    import numpy as np

    return sorted({int(limit) for limit in np.geomspace(_LEAST_WORDS, LONGEST / 8, _STEPS)})


def _step(ordered: "np.ndarray", limit: int) -> float:
    """Return by how many standard errors more numbers lie in the band below `limit` than in those beside
    it; 0 where these are not few, or hardly any text is longer, as where all are of one length."""
    import numpy as np

    bounds = [limit / _BAND**2, limit / _BAND, limit, limit * _BAND]
    lower, below, above = np.diff(edges := np.searchsorted(ordered, bounds, "right"))
    beside = max(lower, above)
    if below < _BUMP * beside or len(ordered) - edges[-1] < _BEYOND * len(ordered):
        return 0.0
    return float((below - beside) / np.sqrt(below + beside + 1))
