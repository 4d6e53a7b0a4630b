"""The rows in quarantine, and some rows with each flaw, with excerpts of what they say."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from expectations.data.batches import BATCH_BYTES, batches, copied
from expectations.data.excerpts import excerpts, no_excerpts
from expectations.data.findings import EXAMPLES
from expectations.data.messages import Rules
from expectations.data.tables import LINES, alongside, parts, sums, writing
from retune.recipe.flaws import FLAWS, SCORE_FLAWS

if TYPE_CHECKING:
    import polars as pl

EXCERPTS, QUARANTINE = "examples.parquet", "quarantine.parquet"


class FirstRows:
    """The first rows with each flaw, EXAMPLES at most, of a feature table that comes in parts."""

    def __init__(self) -> None:
        self._numbers: set[int] = set()
        self._seen: Counter[str] = Counter()

    def look(self, lines: "pl.DataFrame") -> None:
        """Take the next part."""
        for flaw in FLAWS:
            found = lines["row"].filter(lines[flaw]).head(EXAMPLES - self._seen[flaw])
            self._seen[flaw] += len(found)
            self._numbers.update(found)

    @property
    def rows(self) -> "pl.Series":
        """Their numbers."""
        import polars as pl

        return pl.Series("row", sorted(self._numbers), dtype=pl.Int64)


def write_quarantine(
    rows: Path,
    table: "pl.LazyFrame",
    examples: "pl.Series",
    rules: Rules,
    folder: Path,
    screened: Path | None = None,
) -> None:
    """Write the quarantine of a feature table with `reasons`, and excerpts of the rows `examples`.

    Of rows without a flaw in their scores, the excerpts are those in the folder `screened`, if given.
    """
    import polars as pl

    example = pl.col("row").is_in(examples.implode())
    table = table.with_columns(
        quarantined=pl.col("disposition") == "quarantined",
        example=example,
        anew=pl.any_horizontal(*SCORE_FLAWS) if screened else pl.lit(True),
    )
    shown = [] if screened is None else [pl.read_parquet(screened / EXCERPTS).filter(example)]
    with writing(folder / QUARANTINE) as write:
        write(_quarantine(_no_lines(table), no_excerpts()))
        for batch, lines in _shown(rows, table):
            texts = _excerpts(batch, lines, rules)
            again = lines["row"].filter(lines["anew"]).implode()
            shown = [known.filter(~pl.col("row").is_in(again)) for known in shown]
            shown.append(texts.filter(example))
            if screened:
                texts = pl.concat([texts, _earlier(screened, lines)])
            write(_quarantine(lines, texts))
    written = pl.concat([no_excerpts(), *shown]).sort("row", maintain_order=True)
    written.write_parquet(folder / EXCERPTS)


def _no_lines(table: "pl.LazyFrame") -> "pl.DataFrame":
    return table.head(0).collect()


def _quarantine(lines: "pl.DataFrame", texts: "pl.DataFrame") -> "pl.DataFrame":
    """Return the lines that are in quarantine with the first excerpt of each."""
    first = texts.unique("row", keep="first", maintain_order=True).drop("reason")
    quarantine = lines.filter("quarantined").select("row", "source", "score", "reasons")
    return quarantine.join(first, on="row", how="left", maintain_order="left")


def _shown(rows: Path, table: "pl.LazyFrame") -> "Iterator[tuple[pl.DataFrame, pl.DataFrame]]":
    """Yield the lines of what is in quarantine or an example, and of those that are to be shown anew
    the rows themselves, as many at a time as a batch holds."""
    import polars as pl

    wanted = pl.col("quarantined") | pl.col("example")
    table = table.with_columns(pl.col("anew") & wanted)
    if not sums(table, ["anew"])["anew"]:
        nothing = next(batches(rows)).clear()
        yield from ((nothing, lines) for lines in parts(table.filter(wanted)))
        return
    held: list[tuple[pl.DataFrame, pl.DataFrame]] = []
    for batch, lines in alongside(batches(rows), parts(table)):
        held.append((copied(batch.filter(lines["anew"])), lines.filter(wanted)))
        size = sum(part.estimated_size() for part, _ in held)
        if size >= BATCH_BYTES or sum(len(lines) for _, lines in held) >= LINES:
            yield _joined(held)
            held = []
    if held:
        yield _joined(held)


def _joined(held: "list[tuple[pl.DataFrame, pl.DataFrame]]") -> "tuple[pl.DataFrame, pl.DataFrame]":
    import polars as pl

    texts, lines = (pl.concat(frames, rechunk=True) for frames in zip(*held, strict=True))
    return texts, lines


def _excerpts(batch: "pl.DataFrame", lines: "pl.DataFrame", rules: Rules) -> "pl.DataFrame":
    """Return excerpts of the rows of a batch: of an example for each of its flaws, of the others, which
    only the quarantine lists, for the first one."""
    import polars as pl

    if batch.is_empty():
        return no_excerpts()
    first = pl.col("reasons").list.first()
    told = (pl.col(flaw) & (pl.col("example") | (first == flaw)) for flaw in FLAWS)
    return excerpts(batch, lines.filter("anew").with_columns(told), rules)


def _earlier(screened: Path, lines: "pl.DataFrame") -> "pl.DataFrame":
    """Return the excerpts that the quarantine in a folder has of lines that are not shown anew."""
    import polars as pl

    quarantined = pl.col("row").is_between(lines["row"].min(), lines["row"].max())
    found = pl.scan_parquet(screened / QUARANTINE).filter(quarantined).collect()
    anew = lines["row"].filter(lines["anew"])
    found = found.filter(~pl.col("row").is_in(anew.implode()))
    return found.select("row", "place", "excerpt", reason=pl.lit(""))
