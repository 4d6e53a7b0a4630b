"""The parts of a mix: how many rows each has, what becomes of them, and what is wrong with them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import BaseModel

from retune.escaping import visible

if TYPE_CHECKING:
    import polars as pl

_FLAWS = 3  # most frequent ones that are named


class PartOfMix(BaseModel):
    """One part: its rows by what becomes of them, and its most frequent flaws in words, with how many
    rows have each."""

    name: str
    rows: int
    accepted: int
    quarantined: int
    filtered: int
    flaws: list[tuple[str, int]]

    @property
    def quarantined_share(self) -> float:
        """The share of its rows that are in quarantine, 0 to 1."""
        return self.quarantined / self.rows

    @property
    def words(self) -> str:
        """The most frequent flaws in one line."""
        return "; ".join(f"{rows:,} with {flaw}" for flaw, rows in self.flaws) or "nothing found"


def parts(table: "pl.DataFrame", titles: Mapping[str, str] | None = None) -> list[PartOfMix]:
    """Return the parts of a feature table with dispositions, in their order; none without a mix.

    `titles` are the words of the flaws that are counted, by their names.
    """
    if "part" not in table.columns:
        return []
    return [
        _part(str(name), rows, titles or {})
        for (name,), rows in table.group_by("part", maintain_order=True)
    ]


def _part(name: str, rows: "pl.DataFrame", titles: Mapping[str, str]) -> PartOfMix:
    counts = {flaw: int(rows[flaw].sum()) for flaw in titles}
    frequent = sorted((flaw for flaw in counts if counts[flaw]), key=lambda flaw: -counts[flaw])
    of = {
        kind: int((rows["disposition"] == kind).sum())
        for kind in ("accepted", "quarantined", "filtered")
    }
    flaws = [(titles[flaw], counts[flaw]) for flaw in frequent[:_FLAWS]]
    return PartOfMix(name=name, rows=len(rows), flaws=flaws, **of)


def place_in_mix(table: "pl.DataFrame", row: int) -> str:
    """Return where a row of a mix is in its part, as what goes before an excerpt; empty without a mix."""
    if "part" not in table.columns:
        return ""
    ((part, number),) = table.filter(table["row"] == row).select("part", "part_row").rows()
    return f"{visible(part)}, row {number}: "
