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
_SIGNIFICANT = 6.0  # standard errors between the bands below and above
_SHARE = 0.08


def lengths(frame: "pl.DataFrame") -> Iterator[Group]:
    """Yield the answers just below the number of words where most stop: `frame` has `answer`."""
    import numpy as np
    import polars as pl

    answer = pl.col("answer")
    whole = (answer.str.len_chars() < LONGEST) & ~answer.is_duplicated()
    words = frame.select(pl.when(whole).then(answer.str.count_matches(r"\S+"))).to_series()
    counts = words.fill_null(0).to_numpy().astype(np.float64)
    significance, most = max((_step(np.sort(counts), limit), limit) for limit in _limits())
    near = (counts <= most) & (counts > most / _BAND)
    group = near if significance >= _SIGNIFICANT else near & False
    yield Group(f"stop just below {most} words, where few go on", _SHARE, group, "end")


def _limits() -> list[int]:
    import numpy as np

    return sorted({int(limit) for limit in np.geomspace(_LEAST_WORDS, LONGEST / 8, _STEPS)})


def _step(ordered: "np.ndarray", limit: int) -> float:
    """Return by how many standard errors more numbers lie in the band below `limit` than above."""
    import numpy as np

    edges = np.searchsorted(ordered, [limit / _BAND, limit, limit * _BAND], "right")
    below, above = np.diff(edges)
    return float((below - above) / np.sqrt(below + above + 1))
