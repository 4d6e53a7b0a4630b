"""What a model did with each example that it was evaluated by, one line per example.

Base, champion and candidate are compared example by example, so an example's name depends on
nothing but what was asked and how it is graded: the same example has the same name in every run.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from retune.files import digest

if TYPE_CHECKING:
    import polars as pl

BASE, TUNED, CHAMPION = "base", "tuned", "champion"  # sides: the models
HELD_OUT, BATTERY = (
    "held_out",
    "battery",
)  # the suites of the held-out rows and of what may be forgotten
LOSS = "loss"  # the scorer of a row's loss (nats per token), which counts by its tokens
PASSED = "passed"  # the scorer of every probe, 0 or 1
LATER = ("label", "conditions")  # columns that older files lack
FILE = "outcomes.parquet"
ARTIFACT = f"evaluate/{FILE}"  # of a run: its own and its base's


class Outcome(NamedTuple):
    """One example by one model.

    `side` is the model (base, tuned, champion), `suite` what the example is of, `slice` its group in
    there (a source, a skill), `example` names it (see `example_name`). `prompt` is the JSON of the
    messages; `expected` and `answer` are text, `answer` None where only a loss was taken; `stopped`
    tells whether the answer ended by itself, `tokens` how many it has (of a loss: how many it is of),
    `seconds` how long it took, with its batch. `grades` are numbers by scorer, whose names are those of
    the table of measures. `label` is what people call it, "" where it has no name, and `conditions`
    under which it was measured (see `retune.conditions`), "" where that was not noted.
    """

    side: str
    suite: str
    slice: str
    example: str
    prompt: str
    expected: str
    answer: str | None
    stopped: bool | None
    tokens: int
    seconds: float | None
    grades: Mapping[str, float]
    label: str = ""
    conditions: str = ""


def example_name(messages: Sequence[Mapping[str, object]], grading: object = None) -> str:
    """Return what identifies an example: 16 hex digits of its messages and of how it is graded."""
    return digest([list(messages), grading])


def write_outcomes(path: Path, outcomes: Iterable[Outcome]) -> None:
    """Write outcomes as Parquet; `grades` becomes a list of structs `scorer`, `value`."""
    import polars as pl

    rows = [
        outcome._asdict()
        | {"grades": [{"scorer": key, "value": value} for key, value in outcome.grades.items()]}
        for outcome in outcomes
    ]
    write_table(path, pl.DataFrame(rows, schema=_schema()))


def write_table(path: Path, outcomes: "pl.DataFrame") -> None:
    """Write outcomes that were read from such a file; what it has beside them is left out, and what an
    older one lacks is empty."""
    import polars as pl

    lacking = {name: pl.lit("") for name in LATER if name not in outcomes.columns}
    outcomes = outcomes.with_columns(**lacking)
    outcomes.select(list(_schema())).write_parquet(path)


def read_grades(path: Path) -> "pl.DataFrame":
    """Return the grades in a file of outcomes, see `grades_of`."""
    import polars as pl

    return grades_of(pl.read_parquet(path))


def grades_of(outcomes: "pl.DataFrame") -> "pl.DataFrame":
    """Return a line per example and scorer: `side`, `suite`, `slice`, `example`, `scorer`, `value` and
    `weight`, which is the number of tokens of a loss, else 1."""
    import polars as pl

    weight = pl.when(pl.col("scorer") == LOSS).then("tokens").otherwise(1).cast(pl.Float64)
    columns = ("side", "suite", "slice", "example", "scorer", "value")
    return _by_scorer(outcomes).select(*columns, weight=weight)


def graded_examples(outcomes: "pl.DataFrame") -> "pl.DataFrame":
    """Return a line per example and scorer of one side, with the example's texts; one that occurs
    several times is there once."""
    key = ("suite", "scorer", "example")
    columns = (*key, "slice", "prompt", "expected", "answer", "value")
    return _by_scorer(outcomes).select(columns).unique(key, keep="first", maintain_order=True)


def averaged(grades: "pl.DataFrame") -> "pl.DataFrame":
    """Return a table of grades with one line per example: one that occurs several times is averaged."""
    import polars as pl

    return (
        grades.group_by("suite", "scorer", "example")
        .agg(pl.col("slice").sort().first(), pl.col("value", "weight").mean())
        .sort("suite", "scorer", "example")
    )


def of_side(outcomes: "pl.DataFrame", side: str) -> "pl.DataFrame":
    """Return the lines of one model, of outcomes or grades."""
    return outcomes.filter(outcomes["side"] == side)


def scorer_of(metric: str) -> str:
    """Return the scorer of a metric, `<suite>/<scorer>` or of a slice `<suite>/<scorer>@<slice>`."""
    return metric.partition("@")[0].rpartition("/")[2]


def _by_scorer(outcomes: "pl.DataFrame") -> "pl.DataFrame":
    return outcomes.explode("grades").drop_nulls("grades").unnest("grades")


def _schema() -> "dict[str, pl.DataType | type[pl.DataType]]":
    import polars as pl

    grade = pl.Struct({"scorer": pl.String, "value": pl.Float64})
    return {
        **dict.fromkeys(("side", "suite", "slice", "example", "prompt", "expected"), pl.String),
        "answer": pl.String,
        "stopped": pl.Boolean,
        "tokens": pl.Int64,
        "seconds": pl.Float64,
        "grades": pl.List(grade),
        **dict.fromkeys(LATER, pl.String),
    }
