"""Rows that are too near to what the recipe's own suites ask.

Unlike a benchmark's prompts, those of a suite are written as the rows are: an instruction that all
questions of a task begin with is in many of both, and tells of no leak. So the n-grams that very many
rows hold are left out, which is known only when all rows have been seen.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from expectations.data import similarity

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    from retune.suites.cases import SuiteCase

# An n-gram in more rows than both of these is how the task is put.
COMMON_ROWS, COMMON_SHARE = 10, 0.02


class Cases:
    """The n-grams of cases, to look for in batches of words."""

    def __init__(self, cases: "Sequence[SuiteCase]", ngram: int, count: int) -> None:
        """Take the n-grams of each text, as `similarity.Prompts` does, to look for in `count` rows."""
        import numpy as np

        self._names = [case.name for case in cases]
        self._most = max(COMMON_ROWS, COMMON_SHARE * count)
        owners = [number for number, case in enumerate(cases) for _ in case.texts]
        found = similarity.prompt_grams([text for case in cases for text in case.texts], ngram)
        self._grams = {n: _first(grams, owners, rows) for n, (grams, rows) in found.items()}
        self._seen = {n: np.zeros(len(wanted), int) for n, (wanted, _) in self._grams.items()}
        self._places: dict[int, list[np.ndarray]] = {n: [] for n in self._grams}

    @property
    def lengths(self) -> list[int]:
        """The lengths of n-grams to look for, in words."""
        return list(self._grams)

    def look(self, grams: "dict[int, similarity.Grams]", first: int) -> None:
        """Take note of the n-grams in the next rows, whose numbers begin with `first`."""
        import numpy as np

        for n, (wanted, _) in self._grams.items():
            if n not in grams:
                continue
            hashes, rows = grams[n]
            inside = similarity.among(hashes, wanted)
            places = np.stack(
                (rows[inside] + first, np.searchsorted(wanted, hashes[inside])), axis=1
            )
            places = np.unique(places, axis=0)
            self._seen[n] += np.bincount(places[:, 1], minlength=len(wanted))
            # Of what is common by now no place is kept: it may be in every row.
            self._places[n].append(places[self._seen[n][places[:, 1]] <= self._most])

    def near(self) -> "pl.DataFrame":
        """Return the rows that are near to a case, by their `place`, and the first such one's name:
        `near_case`."""
        import numpy as np
        import polars as pl

        found = [np.empty((0, 2), np.int64)]
        for n, (_, owners) in self._grams.items():
            for places in self._places[n]:
                rare = places[self._seen[n][places[:, 1]] <= self._most]
                found.append(np.stack((rare[:, 0], owners[rare[:, 1]]), axis=1))
        nearest = pl.DataFrame(np.concatenate(found), schema=["place", "case"])
        nearest = nearest.group_by("place").agg(pl.col("case").min()).sort("place")
        names = pl.Series(self._names, dtype=pl.String)
        return nearest.select("place", near_case=names.gather(nearest["case"]))


def _first(
    grams: "np.ndarray", owners: Sequence[int], rows: "np.ndarray"
) -> "tuple[np.ndarray, np.ndarray]":
    """Return the different n-grams in order, and the first case of each."""
    import numpy as np

    different, first = np.unique(grams, return_index=True)
    return different, np.array(owners)[rows[first]]
