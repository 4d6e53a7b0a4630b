"""What was found in a dataset: flaws with the rows that show them, and what became of its sources."""

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field

from expectations.data.mix import place_in_mix
from expectations.data.suite import title
from expectations.data.tables import sums
from expectations.data.totals import KINDS
from retune.recipe import Validation
from retune.recipe.flaws import FLAWS

if TYPE_CHECKING:
    import polars as pl

EXAMPLES = 5  # rows shown per flaw
EXCERPT = 100  # characters of each
FLAWS_OF_SOURCE = 3  # named beside each


class Example(BaseModel):
    """A row that has a flaw, and what of it is to blame."""

    row: int = Field(description="Number of the row, from 0, in the order of the source.")
    part: str = Field(
        "", description="The part of a mix and the row's number in it; empty without a mix."
    )
    place: int | None = Field(
        None, description="The message to blame, from 0; null where it is about the whole row."
    )
    excerpt: str = Field(
        description="What the row says there, as Python writes a text, masked and at most 100 "
        "characters long."
    )

    def __str__(self) -> str:
        """Name the place."""
        part = f" ({self.part})" if self.part else ""
        return f"row {self.row:,}{part}" + ("" if self.place is None else f", message {self.place}")


class Finding(BaseModel):
    """A flaw that rows have."""

    flaw: str = Field(description="Name of the flaw, as in `validation.tolerances`.")
    title: str = Field(description='Its words, to go after "rows that have".')
    rows: int = Field(description="How many rows have it.")
    quarantined: bool = Field(description="Whether rows that have it go to quarantine.")
    examples: list[Example] = Field(description="The first rows that have it, five at most.")
    advice: list[str] = Field(
        [], description="Sentences that tell what would mend it, if anything is known to."
    )


class Contribution(BaseModel):
    """What became of the rows of one source, or of one part of a mix."""

    name: str = Field(description="The source's own name, masked.")
    rows: int = Field(description="How many rows it has.")
    accepted: int = Field(description="How many of them are accepted.")
    quarantined: int = Field(description="How many of them are in quarantine.")
    filtered: int = Field(description="How many sound ones the recipe's filter drops.")
    score_mean: float | None = Field(
        None, description="Mean score of its sound rows; null where none has a score."
    )
    flaws: dict[str, int] = Field(
        {}, description="The most common flaws in it, three at most, each with its rows."
    )

    @property
    def quarantined_share(self) -> float:
        """The share of its rows that are in quarantine, 0 to 1."""
        return self.quarantined / self.rows

    @property
    def words(self) -> str:
        """The most common flaws in one line."""
        flaws = (f"{flaw.replace('_', ' ')} ({rows:,})" for flaw, rows in self.flaws.items())
        return ", ".join(flaws)


def findings(table: "pl.LazyFrame", examples: "pl.DataFrame", config: Validation) -> list[Finding]:
    """Return the flaws of a feature table, the most common first; `examples` are excerpts (`row`,
    `place`, `reason`, `excerpt`)."""
    import polars as pl

    rows = sums(table, FLAWS)
    lines = table.filter(pl.col("row").is_in(examples["row"].implode())).collect(engine="streaming")
    every = [_finding(lines, examples, flaw, rows[flaw], config) for flaw in FLAWS if rows[flaw]]
    return sorted(every, key=lambda finding: -finding.rows)


def origins(table: "pl.LazyFrame", column: str, most: int | None = None) -> list[Contribution]:
    """Return what became of the rows of each group by `column`, the largest first, at most `most`."""
    import polars as pl

    order: dict[str, Any] = {"by": ["rows", column], "descending": [True, False]}
    # First which groups they are: there may be as many as rows.
    largest = table.group_by(column).agg(pl.len().alias("rows")).sort(**order)
    names = (largest if most is None else largest.head(most)).collect(engine="streaming")[column]
    table = table.filter(pl.col(column).is_in(names.implode(), nulls_equal=True))
    groups = (
        table.group_by(column)
        .agg(
            pl.len().alias("rows"),
            *((pl.col("disposition") == kind).sum().alias(kind) for kind in KINDS),
            *(pl.col(flaw).sum().alias(flaw) for flaw in FLAWS),
        )
        .sort(**order)
        .collect(engine="streaming")
    )
    means = _mean_scores(table, names)
    return [
        _origin(name, line | {"score_mean": mean})
        for name, line, mean in zip(names, groups.to_dicts(), means, strict=True)
    ]


def _mean_scores(table: "pl.LazyFrame", names: "pl.Series") -> "list[float | None]":
    """Return the mean score of the sound rows of each group by the column that `names` has values of.

    All are added in the order of the rows: sums of parts, as Polars adds them up on several threads,
    have other last digits in each run.
    """
    import numpy as np
    import polars as pl

    group = pl.col(names.name).replace_strict(names, range(len(names)), return_dtype=pl.UInt32)
    scores = table.select("sound_score", group=group).drop_nulls("sound_score")
    found = scores.collect(engine="streaming")
    groups = found["group"].to_numpy()
    sums = np.bincount(groups, found["sound_score"].to_numpy(), len(names))
    counts = np.bincount(groups, minlength=len(names))
    return [s / n if n else None for s, n in zip(sums.tolist(), counts.tolist(), strict=True)]


def _origin(name: str | None, line: dict[str, Any]) -> Contribution:
    common = sorted((flaw for flaw in FLAWS if line[flaw]), key=lambda flaw: -line[flaw])
    flaws = {flaw: line[flaw] for flaw in common[:FLAWS_OF_SOURCE]}
    return Contribution(**{**line, "name": name or "(none)", "flaws": flaws})


def _finding(
    lines: "pl.DataFrame", examples: "pl.DataFrame", flaw: str, rows: int, config: Validation
) -> Finding:
    flawed = examples.filter(examples["reason"] == flaw).head(EXAMPLES)
    return Finding(
        flaw=flaw,
        title=title(flaw, config),
        rows=rows,
        quarantined=config.quarantines(flaw),
        examples=[
            Example(row=row, place=place, part=place_in_mix(lines, row), excerpt=_quoted(text))
            for row, place, text in flawed.select("row", "place", "excerpt").rows()
        ],
    )


def _quoted(text: str) -> str:
    """Return a text as Python writes it, cut to EXCERPT characters."""
    quoted = repr(text)
    return quoted if len(quoted) <= EXCERPT else f"{quoted[: EXCERPT - 2]}…{quoted[0]}"
