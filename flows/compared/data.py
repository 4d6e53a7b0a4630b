"""What differs between two runs in their rows: how many, of which sources, how long, how scored."""

from typing import TYPE_CHECKING

from flows.compared.changed_rows import ChangedRows
from flows.compared.records import DataChange, SourceRows, Spread
from flows.compared.rows import sampled

if TYPE_CHECKING:
    import polars as pl

SOURCES = 20  # that are told


def data(older: "pl.DataFrame", newer: "pl.DataFrame", rows: ChangedRows) -> DataChange:
    """Return how many rows changed, by their kept digests; see `flows.compared.changed_rows`."""
    before, after = (sampled(lines, rows.share) for lines in (older, newer))
    scale = 1 / rows.share
    return DataChange(
        older=round(len(before) * scale),
        newer=round(len(after) * scale),
        same=round(rows.same * scale),
        added=round(len(rows.added) * scale),
        removed=round(len(rows.removed) * scale),
        edited=len(rows.edited),
        share=rows.share,
        sources=_sources(before, after, rows),
        spreads=_spreads(before, after, rows),
    )


def _sources(before: "pl.DataFrame", after: "pl.DataFrame", rows: ChangedRows) -> list[SourceRows]:
    counts = {
        name: dict(table["source"].fill_null("").value_counts().iter_rows())
        for name, table in (
            ("older", before),
            ("newer", after),
            ("added", rows.added),
            ("removed", rows.removed),
            ("edited", rows.edited),
        )
    }
    names = {**counts["older"], **counts["newer"]}
    lines = [
        SourceRows(source=name, **{key: of.get(name, 0) for key, of in counts.items()})
        for name in names
    ]
    changed = lambda line: line.added + line.removed + line.edited  # noqa: E731
    return sorted(lines, key=lambda line: (-changed(line), -line.newer, line.source))[:SOURCES]


def _spreads(before: "pl.DataFrame", after: "pl.DataFrame", rows: ChangedRows) -> list[Spread]:
    tables = {"older": before, "newer": after, "added": rows.added, "removed": rows.removed}
    return [
        Spread(what=what, rows=name, **_quantiles(table[column]))
        for what, column in (("characters", "chars"), ("score", "score"))
        for name, table in tables.items()
        if len(table) and table[column].is_finite().any()
    ]


def _quantiles(values: "pl.Series") -> dict[str, float | None]:
    finite = values.cast(float).filter(values.is_finite())
    return {f"p{round(100 * part):02}": finite.quantile(part) for part in (0.05, 0.5, 0.95)}
