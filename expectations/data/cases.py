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


class Wanted:
    """The n-grams of cases, to look for in batches of words."""

    def __init__(self, cases: "Sequence[SuiteCase]", ngram: int) -> None:
        """Take the n-grams of each text, as `similarity.Prompts` does."""
        owners = [number for number, case in enumerate(cases) for _ in case.texts]
        found = similarity.prompt_grams([text for case in cases for text in case.texts], ngram)
        self._grams = {n: _first(grams, owners, rows) for n, (grams, rows) in found.items()}

    @property
    def lengths(self) -> list[int]:
        """The lengths of n-grams to look for, in words."""
        return list(self._grams)

    @property
    def owners(self) -> "np.ndarray":
        """The number of the first case that holds each of the n-grams."""
        import numpy as np

        none = np.empty(0, np.int64)
        return np.concatenate([none, *(owners for _, owners in self._grams.values())])

    def hits(self, grams: "dict[int, similarity.Grams]", count: int) -> "pl.Series":
        """Return for each of `count` rows the numbers of the n-grams that it holds, null for none."""
        import numpy as np
        import polars as pl

        found, before = [np.empty((0, 2), np.int64)], 0
        for n, (wanted, _) in self._grams.items():
            hashes, rows = grams.get(n, (wanted[:0], np.empty(0, np.int64)))
            inside = similarity.among(hashes, wanted)
            number = before + np.searchsorted(wanted, hashes[inside])
            found.append(np.stack((rows[inside], number), axis=1))
            before += len(wanted)
        places = np.unique(np.concatenate(found), axis=0)
        table = pl.DataFrame(places, schema={"place": pl.Int64, "hits": pl.Int64})
        of_rows = table.group_by("place", maintain_order=True).agg("hits")
        every = pl.DataFrame({"place": pl.int_range(count, dtype=pl.Int64, eager=True)})
        return every.join(of_rows, on="place", how="left", maintain_order="left")["hits"]


class Cases:
    """Which rows are near to which cases, known once all rows have been seen."""

    def __init__(self, cases: "Sequence[SuiteCase]", ngram: int, count: int) -> None:
        """Take the cases that are looked for in `count` rows."""
        import numpy as np

        self._names = [case.name for case in cases]
        self._owners = Wanted(cases, ngram).owners
        self._most = max(COMMON_ROWS, COMMON_SHARE * count)
        self._seen = np.zeros(len(self._owners), int)
        self._places: list[np.ndarray] = []

    def look(self, hits: "pl.Series", first: int) -> None:
        """Take note of what the next rows hold (see `Wanted.hits`), whose places begin with `first`."""
        import numpy as np
        import polars as pl

        places = pl.DataFrame({"hits": hits}).with_row_index("place", first)
        found = places.explode("hits").drop_nulls().cast(pl.Int64).to_numpy()
        self._seen += np.bincount(found[:, 1], minlength=len(self._seen))
        # Of what is common by now no place is kept: it may be in every row.
        self._places.append(found[self._seen[found[:, 1]] <= self._most])

    def near(self) -> "pl.DataFrame":
        """Return the rows that are near to a case, by their `place`, and the first such one's name:
        `near_case`."""
        import numpy as np
        import polars as pl

        found = np.concatenate([np.empty((0, 2), np.int64), *self._places])
        rare = found[self._seen[found[:, 1]] <= self._most]
        cases = np.stack((rare[:, 0], self._owners[rare[:, 1]]), axis=1)
        nearest = pl.DataFrame(cases, schema={"place": pl.Int64, "case": pl.Int64})
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
