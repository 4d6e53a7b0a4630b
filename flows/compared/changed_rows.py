"""Which rows two runs do not share, by what each kept of its rows (`flows.compared.rows`)."""

from typing import TYPE_CHECKING, NamedTuple

from flows.compared.artifacts import table
from flows.compared.rows import ARTIFACT, sampled

if TYPE_CHECKING:
    import polars as pl


class ChangedRows(NamedTuple):
    """The rows that only one of two runs has, as `flows.compared.rows.digests` describes them.

    `added` and `removed` are without the `edited`, a line for each row of the newer run that is an
    earlier one with another answer or another question: `row`, `source` and `row_before`. `same` rows
    are in both. Of very large data all of it is of a `share` of the rows, and no edits are known.
    """

    added: "pl.DataFrame"
    removed: "pl.DataFrame"
    edited: "pl.DataFrame"
    same: int
    share: float

    def brief(self) -> str:
        """Return the changes in few words: `data +140 −3 rows, 12 edited`; nothing if there are none."""
        about = "" if self.share == 1 else "about "
        signs = (("+", self.added), ("−", self.removed))
        counts = [f"{sign}{len(rows) / self.share:,.0f}" for sign, rows in signs if len(rows)]
        edited = f"{len(self.edited):,}" if len(self.edited) else ""
        if not counts:
            return f"data {edited} rows edited" if edited else ""
        return f"data {about}{' '.join(counts)} rows{f', {edited} edited' if edited else ''}"


def change_of_rows(older: str, newer: str) -> str:
    """Return in few words what changed of the rows between two runs, by their ids; nothing if
    nothing did, or an older run kept no rows."""
    before, after = table(older, ARTIFACT), table(newer, ARTIFACT)
    return "" if before is None or after is None else changed_rows(before, after).brief()


def changed_rows(older: "pl.DataFrame", newer: "pl.DataFrame") -> ChangedRows:
    """Return what differs between two runs' kept rows. A row that is there twice counts twice."""
    share = min(_share(older), _share(newer))
    before, after = (_numbered(sampled(lines, share)) for lines in (older, newer))
    key = ["digest", "copy"]
    added = after.join(before, on=key, how="anti", maintain_order="left")
    removed = before.join(after, on=key, how="anti", maintain_order="left")
    edited = _edited(added, removed, share)
    return ChangedRows(
        added=added.filter(~added["row"].is_in(edited["row"].implode())),
        removed=removed.filter(~removed["row"].is_in(edited["row_before"].implode())),
        edited=edited,
        same=len(after) - len(added),
        share=share,
    )


def _share(lines: "pl.DataFrame") -> float:
    return float(lines["share"][0]) if len(lines) else 1.0


def _numbered(lines: "pl.DataFrame") -> "pl.DataFrame":
    """Number the rows of one digest, so that the second copy of a row is a row of its own."""
    import polars as pl

    return lines.with_columns(copy=pl.int_range(pl.len()).over("digest"))


def _edited(added: "pl.DataFrame", removed: "pl.DataFrame", share: float) -> "pl.DataFrame":
    """Return the pairs of a removed and an added row that begin, or else end, with the same message.

    Only where that message is of one row on either side: a greeting begins many.
    """
    import polars as pl

    pairs = added.select("row", "source", row_before=pl.col("row")).clear()
    if share < 1:  # of a pair, one row is sampled without the other
        return pairs
    for key in ("opening", "closing"):
        taken = pl.col("row").is_in(pairs["row"].implode())
        left = added.filter(~taken).unique(key, keep="none", maintain_order=True)
        gone = pl.col("row").is_in(pairs["row_before"].implode())
        right = removed.filter(~gone).unique(key, keep="none")
        right = right.select(key, row_before="row")
        found = left.join(right, on=key, maintain_order="left")
        pairs = pl.concat([pairs, found.select("row", "source", "row_before")])
    return pairs
