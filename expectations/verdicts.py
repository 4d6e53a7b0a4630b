"""One verdict for every expectation of every gate, and the one error that ends a run by them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from retune.errors import RetuneError
from retune.measures import Measure, measure
from retune.recipe import Recipe
from retune.recipe.flaws import Severity

GRAVITY: dict[Severity, int] = {"critical": 0, "warning": 1, "info": 2}


class Verdict(BaseModel):
    """One expectation: what it demands, what was seen, and the setting that holds its limit.

    `gate` is the stage whose output was judged, `limit` the number that `setting` (empty: none)
    names, `fix` what to change besides. A critical one that failed ends the run, a warning is shown,
    info is logged. What there was nothing to judge by is not `judged`: it has neither passed nor
    failed, and `seen` says why.
    """

    model_config = ConfigDict(frozen=True)

    gate: str = Field(description="The stage whose output was judged.")
    name: str = Field(description="Name of the expectation, as in the settings of severities.")
    expected: str = Field(description="What was expected, in words.")
    seen: str = Field(description="What was seen, or why there was nothing to judge by; masked.")
    limit: float | None = Field(None, description="The number that `setting` names.")
    setting: str = Field("", description="The setting that holds the limit; empty: none.")
    severity: Severity = Field("critical", description="critical (blocks), warning or info.")
    passed: bool = Field(description="Whether it was met.")
    judged: bool = Field(True, description="False where there was nothing to judge it by.")
    fix: str = Field("", description="What to change besides the setting; empty: nothing.")

    @property
    def failed(self) -> bool:
        return self.judged and not self.passed

    @property
    def blocks(self) -> bool:
        return self.severity == "critical" and self.failed

    @property
    def outcome(self) -> str:
        """`passed`, `not judged`, `FAILED` for one that blocks, else `failed`."""
        if not self.judged:
            return "not judged"
        return "passed" if self.passed else "FAILED" if self.blocks else "failed"

    @model_validator(mode="after")
    def _passes_only_if_judged(self) -> Self:
        if self.passed and not self.judged:
            raise ValueError(f"{self.name} cannot pass: it was not judged")
        return self

    def __str__(self) -> str:
        setting = f" ({self.setting})" if self.setting else ""
        # Further lines of what was seen look like no line of ours.
        observed = self.seen.replace("\n", "\n  ")
        return f"expected: {self.expected}; seen: {observed}{setting}"


class Rejected(RetuneError):
    """A critical expectation failed; the message names each with what was seen and the setting."""

    def __init__(self, judgement: "Judgement") -> None:
        self.judgement = judgement
        super().__init__(judgement.message())

    def __reduce__(self) -> tuple[Any, ...]:
        """Come from another process as what it is there."""
        return type(self), (self.judgement,), vars(self)


@dataclass(frozen=True)
class Judgement:
    """The verdicts on one output.

    `subject` is what they are about ("dataset"), `extent` how much of it ("5,600 rows"), `advice`
    what to do if it is rejected. `metrics` are numbers that depend on what it was compared with.
    `write`, if any, writes what people look at into an empty folder and returns the names of the
    files; `markdown` is shown in Prefect. `lead` says in a clause why the subject is rejected; empty:
    how many expectations failed.
    """

    stage: str
    subject: str
    verdicts: Sequence[Verdict]
    extent: str = ""
    advice: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    write: Callable[[Path], tuple[str, ...]] | None = None
    markdown: str = ""
    lead: str = ""

    @property
    def failed(self) -> list[Verdict]:
        """The verdicts that end the run."""
        return [verdict for verdict in self.verdicts if verdict.blocks]

    @property
    def headline(self) -> str:
        """That the subject is rejected, and why, or by how many expectations."""
        if self.lead:
            return f"{self.subject} rejected: {self.lead}"
        many = "expectation" if len(self.failed) == 1 else "expectations"
        extent = f" over {self.extent}" if self.extent else ""
        return f"{self.subject} rejected: {len(self.failed)} critical {many} failed{extent}"

    @property
    def what_to_do(self) -> list[str]:
        """What to change besides the settings, each once."""
        fixes = dict.fromkeys(verdict.fix for verdict in self.failed if verdict.fix)
        return [*fixes, *([self.advice] if self.advice else [])]

    def message(self) -> str:
        """Return why the subject is rejected, a line for each expectation that failed."""
        return "\n".join(
            [self.headline, *(f"- {verdict}" for verdict in self.failed), *self.what_to_do]
        )


def require(judgement: Judgement) -> None:
    """Raise Rejected if a critical expectation failed."""
    if judgement.failed:
        raise Rejected(judgement)


def ranked(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """Return the verdicts: the failed ones first, the gravest of them at the top, then those that
    were not judged."""

    def rank(verdict: Verdict) -> tuple[bool, bool, int]:
        return (not verdict.failed, verdict.judged, GRAVITY[verdict.severity])

    return sorted(verdicts, key=rank)


def severity(recipe: Recipe, gate: str, name: str, default: Severity = "critical") -> Severity:
    """Return what happens when the expectation `name` of `gate` is not met, by the recipe."""
    return recipe.gates.severities.get(f"{gate}.{name}", default)


def at_most(value: float, limit: float) -> bool:
    """Tell whether `value` is at most `limit`, but for rounding: 0.9 - 0.8 is more than 0.1.

    What is not a number is not.
    """
    return value <= limit + 1e-9


def at_least(value: float, limit: float) -> bool:
    """Tell whether `value` is at least `limit`, but for rounding. What is not a number is not."""
    return value >= limit - 1e-9


def within(
    gate: str,
    name: str,
    subject: str,
    value: float,
    limit: float,
    setting: str,
    recipe: Recipe,
    fix: str = "",
) -> Verdict:
    """Return the verdict on the measure `name`, by the setting that holds its limit.

    The setting's own name, `min_…` or `max_…`, says on which side of the limit `value` has to be.
    `subject` are the words for what was measured.
    """
    metric = measure(name)
    least = setting.rpartition(".")[2].startswith("min_")
    passed = (at_least if least else at_most)(value, limit)
    observed = metric.text(value)
    if not passed and metric.number(value) == metric.number(limit):  # rounded, they look equal
        observed = f"{observed} ({value:.10g})"
    return Verdict(
        gate=gate,
        name=name,
        expected=f"{subject} {'at least' if least else 'at most'} {_bound(metric, limit)}",
        seen=observed,
        limit=limit,
        setting=setting,
        severity=severity(recipe, gate, name),
        passed=passed,
        fix=fix,
    )


def _bound(metric: Measure, limit: float) -> str:
    """Return a limit as it was set: not rounded as a value is."""
    number = f"{100 * limit:g}%" if metric.is_share else f"{limit:g}"
    return f"{number} {metric.unit}".rstrip()


def table_row(verdict: Verdict) -> dict[str, Any]:
    """Return the verdict as a line of the one table that MLflow and Prefect show."""
    return {
        "result": verdict.outcome,
        "gate": verdict.gate,
        "severity": verdict.severity,
        "expectation": verdict.expected,
        "seen": verdict.seen,
        "setting": verdict.setting,
    }
