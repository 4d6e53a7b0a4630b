"""The gate's report: what was found, in numbers and in sentences that a person can act on."""

from collections.abc import Callable
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from expectations.data.features import sound_scores
from expectations.data.masking import mask
from expectations.data.scores import Distribution, distribution
from expectations.data.suite import title
from expectations.verdicts import Judgement, Verdict
from retune.escaping import markdown, visible
from retune.measures import MEASURES
from retune.recipe import Validation
from retune.recipe.flaws import DATASET_EXPECTATIONS, FLAWS

if TYPE_CHECKING:
    import polars as pl
    from great_expectations.core import ExpectationSuiteValidationResult

_NOTHING_TO_COMPARE = "no accepted run with other data, or too few scores, to compare with"
_MISSING = {
    "score_psi": _NOTHING_TO_COMPARE,
    "score_ks": _NOTHING_TO_COMPARE,
    "score_agreement": "not asked for (validation.classifier.sample)",
}
EXAMPLES = 3  # rows shown per flaw
SOURCES = 10  # largest ones listed
GATE = "validate"
ADVICE = "Repair the dataset, or change the setting named if it is right as it is."


class Finding(BaseModel):
    """One flaw: its words, how many rows have it, and some of them (row number, excerpt)."""

    flaw: str
    title: str
    rows: int
    quarantined: bool
    examples: list[tuple[int, str]]


class Report(BaseModel):
    """The outcome of the gate over one dataset. `suite` is the fingerprint of the expectations,
    `filtered` counts the sound rows that the recipe's filter drops, `measures` are the numbers
    that the dataset expectations judged, `sources` the largest sources' rows."""

    suite: str
    rows: int
    accepted: int
    quarantined: int
    filtered: int
    findings: list[Finding]
    verdicts: list[Verdict]
    measures: dict[str, float]
    scores: Distribution | None
    sources: dict[str, int]

    @property
    def failed(self) -> list[Verdict]:
        """The critical expectations that failed; any of them blocks the run."""
        return [verdict for verdict in self.verdicts if verdict.blocks]

    @property
    def warnings(self) -> list[Verdict]:
        """The expectations that failed and only warn."""
        return [v for v in self.verdicts if v.severity == "warning" and v.failed]

    @property
    def unjudged(self) -> list[Verdict]:
        """The expectations that there was nothing to judge by."""
        return [verdict for verdict in self.verdicts if not verdict.judged]

    def judgement(self, write: Callable[[Path], tuple[str, ...]] | None = None) -> Judgement:
        """Return the verdicts with all that goes with them; `write` writes the report's files."""
        return Judgement(
            stage=GATE,
            subject="dataset",
            verdicts=self.verdicts,
            extent=f"{self.rows:,} rows",
            advice=ADVICE,
            # What the stage itself has counted it has logged.
            metrics={
                name: value
                for name, value in self.metrics().items()
                if name not in ("rows", "accepted", "filtered") and not name.startswith("flaws/")
            },
            write=write,
            markdown=self.markdown(),
        )

    def message(self) -> str:
        """Return why the dataset is rejected, a line for each expectation that failed."""
        return self.judgement().message()

    def markdown(self) -> str:
        """Return what was found as a table: each flaw, how many rows have it, and examples."""
        lines = [
            f"**{self.accepted:,} of {self.rows:,} rows accepted**, {self.quarantined:,} in quarantine, "
            f"{self.filtered:,} dropped by the filter. Suite `{self.suite}`.",
            "",
            "| rows | have | then | e.g. |",
            "|---:|---|---|---|",
        ]
        for finding in self.findings:
            examples = "; ".join(f"row {row}: {text}" for row, text in finding.examples)
            then = "quarantined" if finding.quarantined else "kept"
            cells = (f"{finding.rows:,}", markdown(finding.title), then, markdown(examples))
            lines.append(f"| {' | '.join(cells)} |")
        lines += ["", "| source | rows |", "|---|---:|"]
        lines += [f"| {markdown(name)} | {rows:,} |" for name, rows in self.sources.items()]
        if self.unjudged:
            lines += ["", "| not judged | because |", "|---|---|"]
            lines += [f"| {markdown(v.expected)} | {markdown(v.seen)} |" for v in self.unjudged]
        return "\n".join(lines)

    def metrics(self) -> dict[str, float]:
        """Return the report's numbers under their stable metric names."""
        numbers: dict[str, float] = {
            "rows": self.rows,
            "accepted": self.accepted,
            "filtered": self.filtered,
            "critical_failures": len(self.failed),
            "warnings": len(self.warnings),
            **self.measures,
        }
        if self.scores:
            numbers |= {f"score_p{p:02}": self.scores.quantiles[10 * p] for p in (5, 50, 95)}
            numbers["score_bf16_share"] = self.scores.bf16_share
        counts = {finding.flaw: finding.rows for finding in self.findings}
        return numbers | {f"flaws/{name}": counts.get(name, 0) for name in FLAWS}


def report(
    table: "pl.DataFrame",
    examples: "pl.DataFrame",
    results: "list[ExpectationSuiteValidationResult]",
    measures: dict[str, float],
    suite: str,
    config: Validation,
) -> Report:
    """Summarise the feature table, excerpts of flawed rows (`row`, `reason`, `excerpt`), GX's
    results and the measures."""
    disposition = table["disposition"]
    findings = [_finding(table, examples, flaw, config) for flaw in FLAWS]
    findings = sorted((f for f in findings if f.rows), key=lambda finding: -finding.rows)
    sources = (
        table.filter(disposition == "accepted")["source"].value_counts(sort=True).head(SOURCES)
    )
    return Report(
        suite=suite,
        rows=len(table),
        accepted=(disposition == "accepted").sum(),
        quarantined=(disposition == "quarantined").sum(),
        filtered=(disposition == "filtered").sum(),
        findings=findings,
        verdicts=[
            _verdict(entry, table, findings, measures, config)
            for result in results
            for entry in result.results
        ],
        measures={name: value for name, value in measures.items() if not isnan(value)},
        scores=distribution(sound_scores(table)),
        sources=dict(sources.iter_rows()),
    )


def _finding(
    table: "pl.DataFrame", examples: "pl.DataFrame", flaw: str, config: Validation
) -> Finding:
    rows = int(table[flaw].sum())
    flawed = (
        examples.filter(examples["reason"] == flaw).head(EXAMPLES) if rows else examples.clear()
    )
    return Finding(
        flaw=flaw,
        title=title(flaw, config),
        rows=rows,
        quarantined=config.quarantines(flaw),
        examples=[(row, f"{text!r:.100}") for row, text in flawed.select("row", "excerpt").rows()],
    )


def _verdict(
    entry: Any,
    table: "pl.DataFrame",
    findings: list[Finding],
    measures: dict[str, float],
    config: Validation,
) -> Verdict:
    meta = entry.expectation_config.meta
    name = meta["name"]
    missing = _missing(name, table, measures, config)
    if missing:
        observed = missing
    elif problem := entry.exception_info.get("exception_message"):
        observed = f"could not be judged: {visible(mask(problem))}"
    elif name in FLAWS:
        observed = _flaw_text(name, bool(entry.success), len(table), findings)
    elif name == "score_quantiles_min":
        few, scored = entry.result["unexpected_count"], entry.result["element_count"]
        scored -= entry.result.get("missing_count") or 0
        observed = f"{few:,} of {scored:,} scores below it; {_extremes(table)}"
    else:
        observed = _measure_text(name, bool(entry.success), table, findings, measures)
    return Verdict(
        gate=GATE,
        name=name,
        expected=meta["title"],
        seen=observed,
        limit=meta["limit"],
        setting=meta["setting"],
        severity=entry.expectation_config.severity,
        passed=bool(entry.success) and not missing,
        judged=not missing,
    )


def _missing(
    name: str, table: "pl.DataFrame", measures: dict[str, float], config: Validation
) -> str:
    """Return why there was nothing to judge the expectation `name` by; empty if there was."""
    if name in ("score_not_finite", "score_out_of_range"):
        scores = table["score"].drop_nulls().len() + table["score_not_finite"].sum()
        return "" if scores else "there are no scores"
    if name == "near_duplicate" and config.near_duplicate_similarity is None:
        return "not looked for (validation.near_duplicate_similarity)"
    if name in FLAWS or name == "score_quantiles_min":
        return ""
    metric = DATASET_EXPECTATIONS[name].measure
    return "" if metric in measures else _MISSING[metric]


def _flaw_text(flaw: str, success: bool, rows: int, findings: list[Finding]) -> str:
    finding = next((f for f in findings if f.flaw == flaw), None)
    if finding is None:
        return "none"
    text = f"{finding.rows / rows:.1%} ({finding.rows:,} of {rows:,} rows)"
    return text if success else f"{text}, {_example(finding)}"


def _measure_text(
    name: str,
    success: bool,
    table: "pl.DataFrame",
    findings: list[Finding],
    measures: dict[str, float],
) -> str:
    metric = DATASET_EXPECTATIONS[name].measure
    value = measures[metric]
    if isnan(value):
        return "there are no scores"
    text = MEASURES[metric].text(value)
    if name == "max_source_share":
        source = table.filter(table["disposition"] == "accepted")["source"].mode()
        largest = source.sort()[:1].to_list()
        return f"{text} from {visible(largest[0]) if largest else 'nowhere'}"
    if metric == "score_mean":
        return f"{text}; {_extremes(table)}"
    if metric == "quarantined_share":
        text = f"{text} ({round(value * len(table)):,} of {len(table):,} rows)"
    elif metric == "accepted":
        text = f"{text} rows"
    else:
        return text
    return text if success else f"{text}: {_worst(findings)}"


def _extremes(table: "pl.DataFrame") -> str:
    """Name the lowest and the highest score of the sound rows, and whose they are."""
    sound = table.filter(table["disposition"] != "quarantined")
    scored = sound.drop_nulls("score").sort("score")
    if scored.is_empty():
        return "there are no scores"
    (low, first), (high, last) = scored.select("score", "row")[[0, -1]].rows()
    return f"lowest {low:g} in row {first}, highest {high:g} in row {last}"


def _worst(findings: list[Finding]) -> str:
    """Name the most common flaws that cost rows, each with an example."""
    costly = [finding for finding in findings if finding.quarantined]
    parts = [
        f"{finding.rows:,} with {finding.title}, {_example(finding)}" for finding in costly[:2]
    ]
    return "; ".join(parts) or "no row is flawed, the dataset is small"


def _example(finding: Finding) -> str:
    row, excerpt = finding.examples[0]
    return f"e.g. row {row} ({excerpt})"
