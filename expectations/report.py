"""The gate's report: what was found, in numbers and in sentences that a person can act on."""

from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel

from expectations.features import REASONS
from expectations.suite import FLAWS
from retune.config import Validation

if TYPE_CHECKING:
    import polars as pl
    from great_expectations.core import ExpectationSuiteValidationResult

EXAMPLES = 3  # rows shown per kind of flaw


class Flaw(BaseModel):
    """One kind of flaw: its words, how many rows have it, and some of them (row number, excerpt)."""

    reason: str
    title: str
    rows: int
    examples: list[tuple[int, str]]


class Verdict(BaseModel):
    """One expectation: what it demands, and what was seen."""

    title: str
    severity: Literal["critical", "warning", "info"]
    success: bool
    seen: str
    setting: str


class Report(BaseModel):
    """The outcome of the gate over one dataset."""

    rows: int
    accepted: int
    score_mean: float | None
    flaws: list[Flaw]
    verdicts: list[Verdict]

    @property
    def failed(self) -> list[Verdict]:
        """The critical expectations that failed; any of them blocks the run."""
        return [v for v in self.verdicts if v.severity == "critical" and not v.success]

    def message(self) -> str:
        """Return why the dataset is rejected: each failure, its size, an example and the setting."""
        many = "expectation" if len(self.failed) == 1 else "expectations"
        lines = [
            f"dataset rejected: {len(self.failed)} critical {many} failed over {self.rows:,} rows"
        ]
        for verdict in self.failed:
            lines.append(f"- expected: {verdict.title}; seen: {verdict.seen} ({verdict.setting})")
        return "\n".join(
            [*lines, "Repair the dataset, or change the setting named if it is right as it is."]
        )


def report(
    features: "pl.DataFrame", result: "ExpectationSuiteValidationResult", config: Validation
) -> Report:
    """Summarise the feature table and GX's results over it."""
    flaws = [_flaw(features, reason, config) for reason in REASONS]
    flaws = sorted((flaw for flaw in flaws if flaw.rows), key=lambda flaw: -flaw.rows)
    accepted = features.remove(features["flawed"])
    return Report(
        rows=len(features),
        accepted=len(accepted),
        score_mean=accepted["score"].mean(),
        flaws=flaws,
        verdicts=[_verdict(entry, features, flaws) for entry in result.results],
    )


def _flaw(features: "pl.DataFrame", reason: str, config: Validation) -> Flaw:
    found = features.filter(features[reason])
    examples = [
        (line["row"], _example(line, reason)) for line in found.head(EXAMPLES).iter_rows(named=True)
    ]
    title = FLAWS[reason].format(**config.model_dump())
    return Flaw(reason=reason, title=title, rows=len(found), examples=examples)


def _example(line: dict[str, Any], reason: str) -> str:
    """Show of a row what its flaw is about: its roles, its score, or its text."""
    if reason in ("unknown_role", "roles_out_of_order"):
        return f"{line['roles']:.60}: {line['excerpt']!r:.80}"
    if reason == "score_out_of_range":
        return f"score {line['score']:g}"
    return f"{line['excerpt']!r:.80}"


def _verdict(entry: Any, features: "pl.DataFrame", flaws: list[Flaw]) -> Verdict:
    config = entry.expectation_config
    return Verdict(
        title=config.meta["title"],
        severity=config.severity,
        success=bool(entry.success),
        seen=_seen(config.kwargs["column"], entry, features, flaws),
        setting=config.meta.get("setting", ""),
    )


def _seen(column: str, entry: Any, features: "pl.DataFrame", flaws: list[Flaw]) -> str:
    """Say what an expectation saw, with the rows to look at if it failed."""
    rows, observed = len(features), entry.result.get("observed_value")
    if entry.exception_info.get("exception_message"):
        return f"could not be judged: {entry.exception_info['exception_message']}"
    if column in ("flawed", "duplicate") and observed is not None:
        text = f"{observed:.1%} ({round(observed * rows):,} of {rows:,} rows)"
        return text if entry.success else f"{text}: {_worst(flaws)}"
    if column == "accepted":
        return f"{observed:,} rows" if entry.success else f"{observed:,} rows: {_worst(flaws)}"
    if column == "accepted_score":
        return _seen_scores(entry, features)
    return f"{entry.result['unexpected_count']:,} rows"


def _seen_scores(entry: Any, features: "pl.DataFrame") -> str:
    scored = features.remove(features["flawed"]).sort("score")
    if scored.is_empty():
        return "no scored rows are left"
    observed = entry.result.get("observed_value")
    lowest = f"lowest {scored['score'][0]:g} in row {scored['row'][0]}"
    if observed is not None:
        return f"{observed:.3f} ({lowest}, highest {scored['score'][-1]:g})"
    return f"{entry.result['unexpected_count']:,} of {len(scored):,} scores below it ({lowest})"


def _worst(flaws: list[Flaw]) -> str:
    """Name the most common flaws, each with an example."""
    parts = [
        f"{flaw.rows:,} × {flaw.title}, e.g. row {flaw.examples[0][0]} ({flaw.examples[0][1]})"
        for flaw in flaws[:2]
    ]
    return "; ".join(parts) or "no row is flawed, the dataset is small"
