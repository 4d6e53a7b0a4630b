"""The gate's report: what was found, in numbers and in sentences that a person can act on."""

from collections.abc import Callable, Sequence
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, Field

from expectations.data.evidence import Evidence
from expectations.data.features import sound_scores
from expectations.data.findings import Contribution, Finding, findings, origins
from expectations.data.observations import GATE, verdict
from expectations.data.repairs import Repairs
from expectations.data.scores import Distribution, distribution
from expectations.data.tables import column
from expectations.data.totals import totals
from expectations.verdicts import Judgement, Verdict
from retune.escaping import code, markdown
from retune.recipe import Validation
from retune.recipe.flaws import FLAWS

if TYPE_CHECKING:
    import polars as pl
    from great_expectations.core import ExpectationSuiteValidationResult

SOURCES = 10  # largest ones listed
RANGES = 40  # of row numbers, listed of each flaw
NOT_JUDGED = 3  # expectations named of those that are open for the same reason
QUARANTINE = "quarantine.parquet"  # of the stage: every row that is in quarantine, and why
COUNTED = "Rows are counted from 0, in the order of the source."
ADVICE = "Repair the dataset, or change the setting named if it is right as it is."


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
    by_source: list[Contribution] = Field(
        [], description="The largest sources with what became of their rows."
    )
    by_part: list[Contribution] = Field(
        [], description="The same of each part, where the dataset is a mix of several."
    )
    places: dict[str, str] = Field(
        {},
        description="By flaw, the numbers of the rows that have it, as ranges (0-99, 120); the first 40.",
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

    def judgement(
        self,
        write: Callable[[Path], tuple[str, ...]] | None = None,
        folder: Path | None = None,
    ) -> Judgement:
        """Return the verdicts with all that goes with them; `write` writes the report's files, and
        `folder` is where the stage has put its own."""
        return Judgement(
            stage=GATE,
            subject="dataset",
            verdicts=self.verdicts,
            extent=f"{self.rows:,} rows",
            advice=" ".join(filter(None, (ADVICE, self._where(folder)))),
            # What the stage itself has counted it has logged.
            metrics={
                name: value
                for name, value in self.metrics().items()
                if name not in ("rows", "accepted", "filtered")
                and not name.startswith(("flaws/", "repairs/"))
            },
            write=write,
            markdown=self.markdown(folder),
        )

    def _where(self, folder: Path | None) -> str:
        """Say how rows are counted, and which file lists those in quarantine."""
        if not self.quarantined:
            return ""
        if folder is None:
            return COUNTED
        # A whole path, which nothing breaks, would push the text beside it off Prefect's page.
        file = f"{folder.parent.name}/{folder.name}/{QUARANTINE}"
        return (
            f"{COUNTED} All {self.quarantined:,} in quarantine are in {file} below the work folder."
        )

    def message(self) -> str:
        """Return why the dataset is rejected, a line for each expectation that failed."""
        return self.judgement().message()

    def markdown(self, folder: Path | None = None) -> str:
        """Return the verdict, and what was found as a table: each flaw, how many rows have it, which
        ones, and examples. `folder` is where the stage has put its files."""
        lines = [
            f"**{self.headline}**",
            "",
            *(line for failed in self.failed for line in (markdown(failed), "")),
            f"{self.counts} What is in quarantine is trained on by no run"
            f"{', and neither is the rest of a rejected dataset' if self.failed else ''}.",
            *self._columns(folder),
            "",
            "| rows | have | then | which | e.g. |",
            "|---:|---|---|---|---|",
        ]
        for finding in self.findings:
            examples = "; ".join(f"{one}: {one.excerpt}" for one in finding.examples)
            then = "quarantined" if finding.quarantined else "kept"
            which = self.places.get(finding.flaw, "")
            cells = (f"{finding.rows:,}", markdown(finding.title), then, which, markdown(examples))
            lines.append(f"| {' | '.join(cells)} |")
        if self.repairs.applied:
            lines += ["", "| repaired by | rows | e.g. |", "|---|---:|---|"]
            lines += [
                f"| {markdown(done.title)} | {done.rows:,} | {markdown(done.example())} |"
                for done in self.repairs.applied
            ]
        if advice := self.repairs.advice():
            lines += ["", markdown(advice)]
        lines += ["", "| source (what the rows name) | accepted rows |", "|---|---:|"]
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
            lines += [f"| {markdown(named)} | {markdown(why)} |" for named, why in self._open()]
        lines += ["", f"Expectations, limits and severities have the fingerprint `{self.suite}`."]
        return "\n".join(lines)

    def _columns(self, folder: Path | None) -> list[str]:
        """Return, as a paragraph, which file has every row in quarantine, and its columns."""
        if not self.quarantined or folder is None:
            return ["", COUNTED] if self.findings else []
        return [
            "",
            f"{COUNTED} Each row in quarantine is a line of {code(folder / QUARANTINE)}: its number "
            f"(`row`), its `source` and `score`, its flaws (`reasons`), the message to blame (`place`) "
            f"and what that says (`excerpt`).",
        ]

    def _open(self) -> list[tuple[str, str]]:
        """Return what was not judged, and why: those that are open for the same reason together."""
        reasons: dict[str, list[str]] = {}
        for unjudged in self.unjudged:
            reasons.setdefault(unjudged.seen, []).append(unjudged.expected)
        return [(_some(expected), why) for why, expected in reasons.items()]

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
    table: "pl.LazyFrame",
    examples: "pl.DataFrame",
    results: "list[ExpectationSuiteValidationResult]",
    measures: dict[str, float],
    suite: str,
    config: Validation,
    evidence: Evidence,
) -> Report:
    """Summarise the feature table, excerpts of flawed rows (`row`, `reason`, `excerpt`), GX's
    results, the measures, and what else there is to judge by."""
    of, found = totals(table), findings(table, examples, config)
    return Report(
        suite=suite,
        rows=of.rows,
        accepted=of.accepted,
        quarantined=of.quarantined,
        filtered=of.filtered,
        findings=found,
        verdicts=[
            verdict(entry, table, of, found, measures, config, evidence)
            for result in results
            for entry in result.results
        ],
        measures={name: value for name, value in measures.items() if not isnan(value)},
        scores=distribution(sound_scores(table)),
        sources=_sources(table),
        by_source=origins(table, "source", SOURCES),
        by_part=origins(table, "part") if "part" in table.collect_schema() else [],
        places={one.flaw: ranges(column(table.filter(one.flaw), "row")) for one in found},
        repairs=evidence.repairs,
    )


def _sources(table: "pl.LazyFrame") -> dict[str, int]:
    """Return the accepted rows of the largest sources."""
    import polars as pl

    accepted = table.filter(pl.col("disposition") == "accepted").group_by("source").len()
    largest = accepted.sort("len", "source", descending=[True, False]).head(SOURCES)
    return dict(largest.collect(engine="streaming").iter_rows())


def ranges(numbers: "Sequence[int] | pl.Series") -> str:
    """Return ascending numbers as ranges, such as `0-99, 120`: the first RANGES, and … for more."""
    import numpy as np

    every = np.asarray(numbers, dtype=np.int64)
    begins = np.flatnonzero(np.diff(every, prepend=every[:1] - 2) != 1)
    ends = every[np.append(begins[1:], len(every)) - 1] if len(every) else every
    found = zip(every[begins[:RANGES]].tolist(), ends[:RANGES].tolist(), strict=True)
    shown = [f"{first}" if first == last else f"{first}-{last}" for first, last in found]
    return ", ".join([*shown, *(["…"] if len(begins) > RANGES else [])])


def _some(expected: Sequence[str]) -> str:
    """Return a few expectations, and how many others there are."""
    others = len(expected) - NOT_JUDGED
    named = "; ".join(expected[:NOT_JUDGED])
    return f"{named}; and {others} more" if others > 0 else named
