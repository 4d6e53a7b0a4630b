"""The repairs that a recipe asks for, over a batch of rows and over a file of them."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from expectations.data.batches import batches
from expectations.data.repairs import Repaired
from retune.ignored import Ignored
from retune.recipe.repairs import REPAIRS
from tasks.validate.repairs import texts, turns
from tasks.validate.repairs.example import example

if TYPE_CHECKING:
    import polars as pl

REPAIRED = (
    "repaired.parquet"  # the rows as they are judged and handed on, where repairs are asked for
)
OF_TEXTS: "dict[str, Callable[[pl.Series, pl.Series], pl.Series]]" = {
    "fix_mojibake": texts.fix_mojibake,
    "unescape": texts.unescape,
    "normalise_unicode": texts.normalise_unicode,
    "strip_role_prefix": texts.strip_role_prefix,
}
OF_TURNS: "dict[str, Callable[[pl.DataFrame], pl.DataFrame]]" = {
    "drop_empty_turns": turns.drop_empty_turns,
    "merge_same_role": turns.merge_same_role,
    "trim_ends": turns.trim_ends,
}


class Change(NamedTuple):
    """What one repair did: the numbers of the rows it changed, and the messages of the first of them
    before and after, a line for each."""

    name: str
    rows: "pl.Series"
    before: "pl.DataFrame"
    after: "pl.DataFrame"


def repaired(batch: "pl.DataFrame", names: Iterable[str]) -> "tuple[pl.DataFrame, list[Change]]":
    """Return a batch of rows with the repairs `names` applied, in the order of REPAIRS, and what each
    did. A row that none of them changes stays as it is; of the others all but `messages` does."""
    lines, steps = _lines(batch), []
    for name in REPAIRS:
        if name in names:
            after = _applied(name, lines)
            rows = _changed_rows(name, lines, after)
            steps.append(Change(name, rows, _of(lines, rows[:1]), _of(after, rows[:1])))
            lines = after
    return _with_messages(batch, lines, steps), steps


def repair(rows: Path, names: tuple[str, ...], folder: Path) -> tuple[Path, list[Repaired]]:
    """Repair a Parquet file of rows; return the file to read from now on, and what each repair did.

    The repaired rows are `repaired.parquet` in `folder`, numbered as they were; without `names` the
    file stays the one it was. What is noted beside the rows goes with them.
    """
    import pyarrow.parquet as pq

    if not names:
        return rows, []
    done = {name: Repaired(name=name, rows=0) for name in REPAIRS if name in names}
    with pq.ParquetWriter(folder / REPAIRED, pq.read_schema(rows)) as writer:
        for batch in batches(rows):
            new, steps = repaired(batch, names)
            writer.write_table(new.to_arrow().cast(writer.schema))
            for step in steps:
                done[step.name] = _counted(done[step.name], step)
    Ignored.beside(rows).write(folder)
    return folder / REPAIRED, list(done.values())


def _lines(batch: "pl.DataFrame") -> "pl.DataFrame":
    """Return a line for each message: `row` and all that a message has."""
    import polars as pl

    present = pl.col("role").is_not_null() | pl.col("content").is_not_null()
    return batch.select("row", "messages").explode("messages").unnest("messages").filter(present)


def _applied(name: str, lines: "pl.DataFrame") -> "pl.DataFrame":
    if name in OF_TURNS:
        return OF_TURNS[name](lines)
    return lines.with_columns(OF_TEXTS[name](lines["content"], lines["role"]).alias("content"))


def _changed_rows(name: str, before: "pl.DataFrame", after: "pl.DataFrame") -> "pl.Series":
    import polars as pl

    if name in OF_TEXTS:
        different = before["content"].ne_missing(after["content"])
        return before["row"].filter(different).unique(maintain_order=True)
    count = pl.len().alias("count")
    old = before.group_by("row", maintain_order=True).agg(count)
    new = after.group_by("row").agg(count)
    pairs = old.join(new, on="row", how="left", suffix="_after", maintain_order="left")
    return pairs.filter(pl.col("count") != pl.col("count_after"))["row"]


def _of(lines: "pl.DataFrame", rows: "pl.Series") -> "pl.DataFrame":
    import polars as pl

    return lines.filter(pl.col("row").is_in(rows.implode()))


def _with_messages(
    batch: "pl.DataFrame", lines: "pl.DataFrame", steps: list[Change]
) -> "pl.DataFrame":
    """Return the batch with the messages that `lines` has of the rows that a step changed."""
    import polars as pl

    changed = pl.concat([batch["row"].clear(), *(step.rows for step in steps)]).unique()
    if changed.is_empty():
        return batch
    fields = pl.struct(pl.exclude("row")).alias("_messages")
    new = _of(lines, changed).group_by("row", maintain_order=True).agg(fields)
    messages = pl.coalesce("_messages", "messages").cast(batch.schema["messages"])
    return (
        batch.join(new, on="row", how="left", maintain_order="left")
        .with_columns(messages=messages)
        .drop("_messages")
    )


def _counted(so_far: Repaired, step: Change) -> Repaired:
    counted = so_far.model_copy(update={"rows": so_far.rows + len(step.rows)})
    if so_far.rows or step.rows.is_empty():
        return counted
    before, after = example(step.before, step.after)
    return counted.model_copy(update={"row": step.rows[0], "before": before, "after": after})
