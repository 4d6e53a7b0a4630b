"""What differs between two runs, as records; `retune compare --json` prints them as they are."""

from typing import Literal

from pydantic import BaseModel, Field

from expectations.promotion.contest import PairedDifference


class ComparedRun(BaseModel):
    """One of the two runs."""

    id: str = Field(description="Its id in MLflow.")
    name: str = Field(description="Its name in MLflow.")
    recipe: str = Field(description="Name of its recipe.")
    started: str = Field(description="When it began, UTC.")
    status: str = Field(description="FINISHED, FAILED, KILLED or RUNNING, as MLflow has it.")
    outcome: str = Field(
        description="What became of its candidate (Promoted, Undecided, …), or Finished, Rejected, "
        "Failed or Stopped (in small letters by earlier versions); empty: not told."
    )
    version: str = Field("", description="Its candidate, as recipe/number; empty: it made none.")
    serves: bool = Field(False, description="Whether its candidate is the version that serves now.")
    rolled_back: bool = Field(
        False, description="Whether its candidate was rolled back, and is barred since."
    )


class Differing(BaseModel):
    """A setting, or a fact of the environment, that the runs do not share."""

    name: str = Field(description="The setting with its section, a package, a fact of the machine.")
    older: str | None = Field(description="In the older run; null: not there.")
    newer: str | None = Field(description="In the newer run; null: not there.")


class SourceRows(BaseModel):
    """The rows of one source."""

    source: str = Field(description="Name of the source, masked.")
    older: int = Field(description="Rows in the older run.")
    newer: int = Field(description="Rows in the newer run.")
    added: int = Field(description="Rows that only the newer run has.")
    removed: int = Field(description="Rows that only the older run has.")
    edited: int = Field(description="Rows of the newer run with one message changed.")


class Spread(BaseModel):
    """How lengths or scores of rows are spread: three quantiles; null where there are none."""

    what: Literal["characters", "score"] = Field(description="What of a row.")
    rows: Literal["older", "newer", "added", "removed"] = Field(description="Of which rows.")
    p05: float | None = Field(description="The 5th percentile.")
    p50: float | None = Field(description="The median.")
    p95: float | None = Field(description="The 95th percentile.")


class DataChange(BaseModel):
    """What differs in the accepted rows, by the digests of their messages."""

    older: int = Field(description="Accepted rows of the older run.")
    newer: int = Field(description="Accepted rows of the newer run.")
    same: int = Field(description="Rows that both have.")
    added: int = Field(description="Rows that only the newer run has.")
    removed: int = Field(description="Rows that only the older run has.")
    edited: int = Field(description="Rows with the same question or the same answer as before.")
    share: float = Field(description="Share of the rows that all of this is estimated from.")
    sources: list[SourceRows] = Field(description="By source, the most changed first.")
    spreads: list[Spread] = Field(description="Lengths and scores.")


class MetricChange(BaseModel):
    """A measure of the runs as wholes; what is of single examples is in `differences`, by pairs."""

    name: str = Field(description="Stage and measure, as in MLflow.")
    title: str = Field(description="The measure in words.")
    older: float | None = Field(description="Of the older run; null: it has none.")
    newer: float | None = Field(description="Of the newer run; null: it has none.")
    better: Literal["newer", "older", "neither"] | None = Field(
        description="Which value is better; null where neither direction is."
    )


class NearRow(BaseModel):
    """A new training row that is like a prompt."""

    row: int = Field(description="Its number in the source.")
    source: str = Field(description="Its source, masked.")
    likeness: float = Field(
        description="Share of the prompt's word sequences in it, weighted, 0 to 1."
    )
    excerpt: str = Field(description="How it begins, masked.")


class ComparedExample(BaseModel):
    """An example on which the runs differ."""

    example: str = Field(description="Its name, the same in every run.")
    suite: str = Field(description="What it is of.")
    slice: str = Field(description="Its group there, masked.")
    scorer: str = Field(description="What it was graded by.")
    older: float = Field(description="Grade in the older run.")
    newer: float = Field(description="Grade in the newer run.")
    prompt: str = Field(description="What was asked, masked.")
    expected: str = Field(description="What was expected, masked.")
    older_answer: str | None = Field(description="What the older run's model said, masked.")
    newer_answer: str | None = Field(description="What the newer run's model said, masked.")
    near: list[NearRow] = Field(
        [], description="New training rows that are like it, if it was lost."
    )


class Tally(BaseModel):
    """How the examples of one suite went by one scorer."""

    suite: str = Field(description="The suite.")
    scorer: str = Field(description="The scorer.")
    won: int = Field(description="Examples on which the newer run is better.")
    lost: int = Field(description="Examples on which the older run is better.")
    same: int = Field(description="Examples on which neither is.")
    only_older: int = Field(description="Examples that only the older run was asked.")
    only_newer: int = Field(description="Examples that only the newer run was asked.")


class Curve(BaseModel):
    """A measure over the training, of one run."""

    name: str = Field(description="The measure: train/loss, …")
    run: Literal["older", "newer"] = Field(description="Which run.")
    tokens: list[float] = Field(description="Tokens trained on; steps where they are not known.")
    values: list[float] = Field(description="The measure there.")
    over: Literal["tokens", "steps"] = Field(description="What `tokens` counts.")


class FileChange(BaseModel):
    """A GGUF file of either run, by its quantization method; null where a run has none."""

    method: str = Field(description="The quantization method.")
    older_bytes: int | None = Field(description="Size of the older run's file.")
    newer_bytes: int | None = Field(description="Size of the newer run's file.")
    older_kl_divergence: float | None = Field(description="From its 16-bit source, nats per token.")
    newer_kl_divergence: float | None = Field(description="The same of the newer run's.")
    older_exact_match: float | None = Field(description="Share of right answers, 0 to 1.")
    newer_exact_match: float | None = Field(description="The same of the newer run's.")
    older_ships: bool | None = Field(description="Whether the older one passed its gate.")
    newer_ships: bool | None = Field(description="Whether the newer one did.")
    identical: bool = Field(description="Whether they are the same file, by sha256.")


class Comparison(BaseModel):
    """All that differs between two runs. `missing` says what could not be compared, and why."""

    version: Literal[1] = Field(
        1, description="Of this form; a key is never given another meaning."
    )
    older: ComparedRun = Field(description="The run that began first.")
    newer: ComparedRun = Field(description="The other.")
    recipe: list[Differing] = Field(description="Settings that differ.")
    data: DataChange | None = Field(description="Rows; null where a run kept none.")
    environment: list[Differing] = Field(description="Versions and machine.")
    differences: list[PairedDifference] = Field(
        description="What the newer run gains over the older one, with intervals, by the examples that "
        "both were asked."
    )
    metrics: list[MetricChange] = Field(description="Measures of the runs as wholes.")
    tallies: list[Tally] = Field(description="Won and lost examples.")
    lost: list[ComparedExample] = Field(description="The most telling lost examples.")
    won: list[ComparedExample] = Field(description="The most telling won ones.")
    curves: list[Curve] = Field(description="How the trainings went.")
    files: list[FileChange] = Field(description="The GGUF files.")
    missing: list[str] = Field(description="What could not be compared, and why.")
