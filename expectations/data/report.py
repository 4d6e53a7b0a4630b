"""The gate's report: what was found, in numbers and in sentences that a person can act on."""

from collections.abc import Callable
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field

from expectations.data.evidence import Evidence
from expectations.data.features import sound_scores
from expectations.data.masking import mask
from expectations.data.mix import place_in_mix
from expectations.data.repairs import Repairs
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
    "score_correlation": "no 30 stored scores to compare (validation.classifier.sample)",
    "score_mode_share": "fewer than 20 scores",
    "score_unit_share": "fewer than 100 stored scores, validation.score_max below 5, or the last "
    "accepted run's scores lie there as well",
    "profile_drift": "no accepted run with other data, or too few rows, to compare with",
}
_NOT_PROFILED = "fewer than 100 rows with a question and an answer"
# What to do besides about an expectation that failed.
_FIXES = {
    "max_score_share": "A score that is the same for all rows says nothing of them: let the classifier "
    "score them (validation.classifier.score=all), or go without (validation.score_required=false).",
    "max_unit_score_share": "If the scores are probabilities, say so: validation.score_max=1. If the "
    "dataset is of low scores alone: validation.max_unit_score_share=1.",
    "min_correlation": "The stored scores do not follow the text: look for shuffled rows or another "
    "classifier (validation.classifier.model), or score all anew (validation.classifier.score=all).",
}
IGNORED_KINDS = {"ignored_columns": "columns", "ignored_keys": "keys"}
EXAMPLES = 5  # rows shown per flaw
EXCERPT = 100  # characters of each
SOURCES = 10  # largest ones listed
FLAWS_OF_SOURCE = 3  # named beside each
GATE = "validate"
OF_SAMPLE = ("min_agreement", "min_correlation")  # expectations on re-scored rows
ADVICE = "Repair the dataset, or change the setting named if it is right as it is."


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


class Origin(BaseModel):
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


class Report(BaseModel):
    """The outcome of the gate over one dataset."""

    suite: str = Field(description="Fingerprint of the expectations, limits and severities.")
    rows: int = Field(description="How many rows were judged.")
    accepted: int = Field(description="How many rows are handed on to training.")
    quarantined: int = Field(description="How many rows are in quarantine.")
    filtered: int = Field(description="How many sound rows the recipe's filter by score drops.")
    findings: list[Finding] = Field(description="The flaws that were found, most common first.")
    verdicts: list[Verdict] = Field(description="The verdict on every expectation.")
    measures: dict[str, float] = Field(
        description="What the expectations on the whole dataset judged, by the measure's name."
    )
    scores: Distribution | None = Field(
        description="The scores of the sound rows, before the filter; null where there are none."
    )
    sources: dict[str, int] = Field(description="The accepted rows of the largest sources.")
    by_source: list[Origin] = Field(
        [], description="The largest sources with what became of their rows."
    )
    by_part: list[Origin] = Field(
        [], description="The same of each part, where the dataset is a mix of several."
    )
    repairs: Repairs = Field(
        Repairs(),
        description="What was repaired before, and what could be of what is in quarantine.",
    )

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

    @property
    def headline(self) -> str:
        """The verdict in a line."""
        if not self.failed:
            return f"Dataset accepted: {self.accepted:,} of {self.rows:,} rows"
        many = "expectation" if len(self.failed) == 1 else "expectations"
        return f"Dataset rejected: {len(self.failed)} critical {many} failed"

    @property
    def counts(self) -> str:
        """How many rows and expectations there are of each kind, in a sentence or two."""
        warnings, open_ = len(self.warnings), len(self.unjudged)
        return (
            f"{self.rows:,} rows: {self.accepted:,} accepted, {self.quarantined:,} in quarantine, "
            f"{self.filtered:,} dropped by the filter. {len(self.verdicts)} expectations: "
            f"{len(self.failed)} failed, {warnings} {'warning' if warnings == 1 else 'warnings'}, "
            f"{open_} not judged."
        )

    def finding(self, flaw: str) -> Finding | None:
        """Return what was found of a flaw, None if no row has it."""
        return next((finding for finding in self.findings if finding.flaw == flaw), None)

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
                if name not in ("rows", "accepted", "filtered")
                and not name.startswith(("flaws/", "repairs/"))
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
            examples = "; ".join(f"{one}: {one.excerpt}" for one in finding.examples)
            then = "quarantined" if finding.quarantined else "kept"
            cells = (f"{finding.rows:,}", markdown(finding.title), then, markdown(examples))
            lines.append(f"| {' | '.join(cells)} |")
        if self.repairs.applied:
            lines += ["", "| repaired by | rows | e.g. |", "|---|---:|---|"]
            lines += [
                f"| {markdown(done.title)} | {done.rows:,} | {markdown(done.example())} |"
                for done in self.repairs.applied
            ]
        if advice := self.repairs.advice():
            lines += ["", markdown(advice)]
        lines += ["", "| source | rows |", "|---|---:|"]
        lines += [f"| {markdown(name)} | {rows:,} |" for name, rows in self.sources.items()]
        if self.by_part:
            lines += [
                "",
                "| part | rows | accepted | quarantined | most frequent |",
                "|---|---:|---:|---:|---|",
            ]
        for part in self.by_part:
            numbers = f"{part.rows:,} | {part.accepted:,} | {part.quarantined:,}"
            lines.append(f"| {markdown(part.name)} | {numbers} | {markdown(part.words)} |")
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
            **self.repairs.metrics(),
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
    evidence: Evidence,
) -> Report:
    """Summarise the feature table, excerpts of flawed rows (`row`, `reason`, `excerpt`), GX's
    results, the measures, and what else there is to judge by."""
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
            _verdict(entry, table, findings, measures, config, evidence)
            for result in results
            for entry in result.results
        ],
        measures={name: value for name, value in measures.items() if not isnan(value)},
        scores=distribution(sound_scores(table)),
        sources=dict(sources.iter_rows()),
        by_source=_origins(table, "source")[:SOURCES],
        by_part=_origins(table, "part") if "part" in table.columns else [],
        repairs=evidence.repairs,
    )


def _origins(table: "pl.DataFrame", column: str) -> list[Origin]:
    """Return what became of the rows of each group by `column`, the largest first."""
    import polars as pl

    kinds = ("accepted", "quarantined", "filtered")
    groups = (
        table.group_by(column)
        .agg(
            pl.len().alias("rows"),
            *((pl.col("disposition") == kind).sum().alias(kind) for kind in kinds),
            pl.col("sound_score").mean().alias("score_mean"),
            *(pl.col(flaw).sum().alias(flaw) for flaw in FLAWS),
        )
        .sort(["rows", column], descending=[True, False])
    )
    return [_origin(line[column], line) for line in groups.to_dicts()]


def _origin(name: str | None, line: dict[str, Any]) -> Origin:
    common = sorted((flaw for flaw in FLAWS if line[flaw]), key=lambda flaw: -line[flaw])
    flaws = {flaw: line[flaw] for flaw in common[:FLAWS_OF_SOURCE]}
    return Origin(**{**line, "name": name or "(none)", "flaws": flaws})


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
        examples=[
            Example(row=row, place=place, part=place_in_mix(table, row), excerpt=_quoted(text))
            for row, place, text in flawed.select("row", "place", "excerpt").rows()
        ],
    )


def _quoted(text: str) -> str:
    """Return a text as Python writes it, cut to EXCERPT characters."""
    quoted = repr(text)
    return quoted if len(quoted) <= EXCERPT else f"{quoted[: EXCERPT - 2]}…{quoted[0]}"


def _verdict(
    entry: Any,
    table: "pl.DataFrame",
    findings: list[Finding],
    measures: dict[str, float],
    config: Validation,
    evidence: Evidence,
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
    elif name in IGNORED_KINDS:
        observed = evidence.ignored.sentence(IGNORED_KINDS[name]) or "none"
    elif name == "score_quantiles_min":
        few, scored = entry.result["unexpected_count"], entry.result["element_count"]
        scored -= entry.result.get("missing_count") or 0
        observed = f"{few:,} of {scored:,} scores below it; {_extremes(table)}"
    elif evidence.profile and DATASET_EXPECTATIONS[name].needs == "profiled":
        observed = evidence.profile.seen(name, meta["limit"])
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
        fix="" if entry.success else _setting(name, findings) or _fix(name, evidence.repairs),
    )


def _setting(name: str, findings: list[Finding]) -> str:
    """Return which setting makes the rows sound as they are, if one does."""
    if name in IGNORED_KINDS:
        return (
            "Name what is not used on purpose in dataset.ignore, or what it is in dataset.columns."
        )
    examples = next((f.examples for f in findings if f.flaw == name), [])
    if name == "roles_out_of_order":  # an excerpt begins with all roles
        roles_seen = [example.excerpt.partition(": ")[0] for example in examples]
        if any(" system" in roles for roles in roles_seen):
            return "Where a later system message goes, says dataset.mid_system (user or system)."
    if name != "unknown_role":
        return ""
    # Here it begins with the role.
    roles = dict.fromkeys(
        visible(example.excerpt[1:].partition(": ")[0], 60) for example in examples
    )
    named = ", ".join(f"{role}: user" for role in roles)
    return (
        f"If it is a person's, say whose: dataset.roles={{{named}}} (or assistant, system, tool)."
    )


def _fix(name: str, repairs: Repairs) -> str:
    """Return what to do about an expectation that failed, such as repairs that would help."""
    if name in _FIXES:
        return _FIXES[name]
    helps = name in repairs.mended or name in ("min_rows", "max_quarantined_share")
    return repairs.advice() if helps else ""


def _missing(
    name: str, table: "pl.DataFrame", measures: dict[str, float], config: Validation
) -> str:
    """Return why there was nothing to judge the expectation `name` by; empty if there was."""
    if name in ("score_not_finite", "score_out_of_range"):
        scores = table["score"].drop_nulls().len() + table["score_not_finite"].sum()
        return "" if scores else "there are no scores"
    if name == "score_missing" and not config.score_required:
        return "not asked for (validation.score_required)"
    if name == "near_duplicate" and config.near_duplicate_similarity is None:
        return "not looked for (validation.near_duplicate_similarity)"
    if name in FLAWS or name == "score_quantiles_min":
        return ""
    metric = DATASET_EXPECTATIONS[name].measure
    return "" if metric in measures else _MISSING.get(metric, _NOT_PROFILED)


def not_asked(name: str, config: Validation) -> str:
    """Return why the expectation `name` is none of the recipe's; empty if it is."""
    is_asked = name not in OF_SAMPLE or config.classifier.sample
    return "" if is_asked else _MISSING["score_agreement"]


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
    if metric in ("score_mean", "score_mode_share", "score_unit_share"):
        return f"{text}; {_extremes(table)}"
    if metric == "part_quarantined_share":
        worst = max(_origins(table, "part"), key=lambda part: part.quarantined_share)
        return f"{text} of {visible(worst.name)} ({worst.quarantined:,} of {worst.rows:,} rows)"
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
    first = finding.examples[0]
    return f"e.g. row {first.row} ({first.excerpt})"
