"""Where the conversations come from."""

from pydantic import Field

from retune.recipe.section import Line, Section, Source


class Dataset(Section):
    """Where the conversations come from."""

    source: Source = Field(
        description="Hub dataset id, or a local .jsonl, .json, .parquet, .csv or .arrow file.",
        min_length=1,
    )
    revision: Line | None = Field(
        None, description="Branch, tag or commit of the Hub dataset; empty: its main branch."
    )
    subset: Line | None = Field(None, description="Subset (configuration name) of the Hub dataset.")
    split: Line = Field(
        "train",
        pattern=r"^[\w.]+(\[\d*%?:\d*%?\])?$",
        description="Split to read, with an optional slice in rows or percent, e.g. train[:10000].",
    )
    max_row_bytes: int = Field(
        64 << 20,
        ge=1024,
        le=1 << 40,
        description="Largest row that is read, in bytes as stored; a larger one is quarantined.",
    )
    max_row_values: int = Field(
        500_000,
        ge=10,
        le=10**9,
        description="Most values of a row that is read: keys of its objects and elements of its "
        "lists, at all depths; a row with more is quarantined.",
    )
    max_row_depth: int = Field(
        100,
        ge=5,
        le=900,  # beyond it Python's own reader of JSON gives up
        description="Deepest nesting of a row that is read, in lists and objects within each other; "
        "a deeper row is quarantined.",
    )
    max_rows: int = Field(
        50_000_000,
        ge=1,
        le=10**12,
        description="Most rows that are read; a source with more ends the run.",
    )
    max_unpacked_bytes: int = Field(
        64 << 30,
        ge=1 << 20,
        le=1 << 50,
        description="Most that the compressed files of a split may unfold to in all, in bytes.",
    )
    memory_share: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Share of the machine's free memory that reading may take, 0 to 1, but 1 GiB in "
        "any case; a source that takes more ends the run.",
    )
    quiet_minutes: int = Field(
        30,
        ge=1,
        le=10_000,
        description="Longest time without a further batch of rows, in minutes; then reading ends.",
    )
