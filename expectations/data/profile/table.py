"""The table of the numbers of rows, as what looks at it takes it: column by column."""

from typing import TYPE_CHECKING, Protocol

from expectations.data.tables import repeats

if TYPE_CHECKING:
    import polars as pl


class Table(Protocol):
    """A table with a line per row (see `numbers.numbers`): a frame, or a file (`tables.Columns`)."""

    def __len__(self) -> int: ...

    def __getitem__(self, name: str, /) -> "pl.Series": ...


def is_first(values: "pl.Series") -> "pl.Series":
    """Return which values are the first of their kind."""
    import numpy as np
    import polars as pl

    first = np.ones(len(values), dtype=bool)
    first[repeats(values.to_numpy())[0]] = False
    return pl.Series(first)
