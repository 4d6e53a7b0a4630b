"""Single examples that tell of a candidate: what it has forgotten, which incidents happen again, and
where it lost most. Whatever of them is shown is masked."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from expectations.data.masking import masked
from expectations.promotion.contest import direction
from retune.outcomes import PASSED, averaged, graded_examples

if TYPE_CHECKING:
    import polars as pl

EXCERPT = 400  # characters of a text that the page shows
NAME = 60  # characters of a prompt in a verdict
LABEL = 200  # characters of what an example is called
_HALF = 0.5  # of the times that it was asked: passed


class Lost(NamedTuple):
    """How many items a model passed, and the names of those that the candidate does not pass."""

    passed: int
    examples: tuple[str, ...]

    @property
    def share(self) -> float:
        return len(self.examples) / self.passed if self.passed else 0.0


def lost(candidate: "pl.DataFrame", other: "pl.DataFrame", suite: str) -> Lost | None:
    """Return what of a suite's items that `other` passed the candidate does not; None without any.

    An item that the candidate was not asked is no loss, nor is one that either was not graded on.
    """
    import polars as pl

    both = _of(candidate, suite).join(_of(other, suite), on="example", suffix="_other")
    if both.is_empty():
        return None
    passed = both.filter(pl.col("value_other") >= _HALF)
    # What is no number is not at least anything, but polars sorts it above all.
    missed = passed.filter(~(pl.col("value").is_finite() & (pl.col("value") >= _HALF)))
    return Lost(len(passed), tuple(missed["example"].sort()))


def unmet(candidate: "pl.DataFrame", suite: str) -> Lost | None:
    """Return the items of a suite that the candidate does not pass every time; None without any."""
    import polars as pl

    asked = _of(candidate, suite)
    if asked.is_empty():
        return None
    missed = asked.filter(~(pl.col("value").is_finite() & (pl.col("value") >= 1)))
    return Lost(len(asked), tuple(missed["example"].sort()))


def _of(grades: "pl.DataFrame", suite: str) -> "pl.DataFrame":
    import polars as pl

    table = averaged(grades).filter(pl.col("suite") == suite, pl.col("scorer") == PASSED)
    return table.select("example", "value")


def names(outcomes: "pl.LazyFrame", examples: Sequence[str]) -> list[str]:
    """Return examples as a verdict names them: the label, or else the slice, and the beginning of what
    was asked; masked."""
    import polars as pl

    if "label" not in outcomes.collect_schema().names():  # recorded before there were labels
        outcomes = outcomes.with_columns(label=pl.lit(""))
    named = outcomes.filter(pl.col("example").is_in(list(examples)))
    columns = ("example", "slice", "label", "prompt")
    shown = named.select(columns).unique("example").sort("example").collect()
    asked = masked(shown["prompt"].map_elements(_last, return_dtype=pl.String))
    calling = pl.when(pl.col("label") == "").then("slice").otherwise("label")
    called = masked(shown.select(calling).to_series())
    return [
        f"{_cut(name, LABEL)}: {_short(text)}" for name, text in zip(called, asked, strict=True)
    ]


def worst(
    candidate: "pl.DataFrame",
    opponent: "pl.DataFrame",
    margins: Mapping[str, float],
    count: int,
) -> "pl.DataFrame":
    """Return the examples by which the candidate lost most, masked: `metric`, `slice`, `prompt`,
    `expected`, `opponent`, `candidate` (their answers, null where none was written) and
    `opponent_grade`, `candidate_grade`.

    Only what differs by more than its metric's margin is lost. Of each of the metrics as many in turn,
    so that none hides the others, and no row of two suites twice; what was answered comes first.
    `candidate` and `opponent` are tables of outcomes, one line per example (see `retune.outcomes`). Of
    a loss, which is of a whole conversation, `expected` is its last message.
    """
    return _telling(candidate, opponent, margins, count, -1)


def best(
    candidate: "pl.DataFrame",
    opponent: "pl.DataFrame",
    margins: Mapping[str, float],
    count: int,
) -> "pl.DataFrame":
    """Return the examples by which the candidate gained most, as `worst` does."""
    return _telling(candidate, opponent, margins, count, 1)


def _telling(
    candidate: "pl.DataFrame",
    opponent: "pl.DataFrame",
    margins: Mapping[str, float],
    count: int,
    sense: int,
) -> "pl.DataFrame":
    import polars as pl

    left, right = graded_examples(candidate), graded_examples(opponent)
    both = left.join(right, on=("suite", "scorer", "example"), suffix="_o").with_columns(
        metric=pl.format("{}/{}", "suite", "scorer")
    )
    both = both.filter(pl.col("metric").is_in(list(margins)))
    signs = {name: direction(name) for name in both["scorer"].unique()}
    sign = pl.col("scorer").replace_strict(signs, return_dtype=pl.Float64, default=0.0)
    gain = sign * (pl.col("value") - pl.col("value_o"))
    margin = pl.col("metric").replace_strict(margins, return_dtype=pl.Float64, default=0.0)
    ranked = (
        both.with_columns(gain=pl.when(gain.is_nan()).then(float("-inf")).otherwise(gain))
        .filter(sense * pl.col("gain") > margin)
        .sort(-sense * pl.col("gain"), "metric", "example")
        .unique(["scorer", "prompt", "expected"], keep="first", maintain_order=True)
        .with_columns(turn=pl.int_range(pl.len()).over("metric"))
        .sort("turn", "metric")
        .head(count)
        .sort(pl.col("answer").is_null(), maintain_order=True)
    )
    of_loss = pl.col("answer").is_null() & (pl.col("expected") == "")
    said = pl.col("prompt").map_elements(_last, return_dtype=pl.String)
    ranked = ranked.with_columns(expected=pl.when(of_loss).then(said).otherwise("expected"))
    return ranked.select(
        "metric",
        *(
            _masked(ranked, column).alias(name)
            for name, column in (
                ("slice", "slice"),
                ("prompt", "prompt"),
                ("expected", "expected"),
                ("opponent", "answer_o"),
                ("candidate", "answer"),
            )
        ),
        opponent_grade="value_o",
        candidate_grade="value",
    )


def _masked(table: "pl.DataFrame", column: str) -> "pl.Series":
    """Return a column as it may be shown; of a prompt, what was asked last."""
    import polars as pl

    texts = table[column].fill_null("")
    if column == "prompt":
        texts = texts.map_elements(_asked, return_dtype=pl.String)
    # Masked first, then cut: a secret that was cut is no longer known for one.
    safe = masked(texts.cast(pl.String)) if len(texts) else texts.cast(pl.String)
    shown = pl.Series([_cut(text, EXCERPT) for text in safe], dtype=pl.String)
    return shown.set(table[column].is_null(), None) if len(shown) else shown


def _last(prompt: str) -> str:
    """Return what a conversation ends with, of the JSON of its messages."""
    try:
        messages = json.loads(prompt)
        return str(messages[-1]["content"]) if messages else ""
    except (ValueError, LookupError, TypeError):
        return prompt


def _asked(prompt: str) -> str:
    """Return what the user said last, of the JSON of a conversation's messages."""
    try:
        turns = [turn for turn in json.loads(prompt) if turn["role"] == "user"]
        return str(turns[-1]["content"])
    except (ValueError, LookupError, TypeError):
        return _last(prompt)


def _short(text: str) -> str:
    return _cut(" ".join(text.split()), NAME)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]}…"
