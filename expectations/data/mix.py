"""Where a row of a mix is in its part."""

from typing import TYPE_CHECKING

from retune.escaping import visible

if TYPE_CHECKING:
    import polars as pl


def place_in_mix(table: "pl.DataFrame", row: int) -> str:
    """Return where a row of some lines of a feature table is in its part of a mix, in words; empty
    without a mix."""
    if "part" not in table.columns:
        return ""
    ((part, number),) = table.filter(table["row"] == row).select("part", "part_row").rows()
    return f"{visible(part)}, row {number}"
