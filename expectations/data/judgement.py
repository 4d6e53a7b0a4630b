"""The judge of the data gate: what the suites say of a feature table, and the report of it.

Nothing of a row is looked at here, so that a limit which was changed is judged by again in seconds.
"""

import json
from collections.abc import Iterable
from math import inf, isnan
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from expectations.data.charts import histogram
from expectations.data.evidence import NO_EVIDENCE, NO_REFERENCE, Evidence, Reference
from expectations.data.features import sound_scores
from expectations.data.measures import Asked, measures
from expectations.data.observations import GATE, not_asked, plain
from expectations.data.page import Figure, page
from expectations.data.profile.looks import PROFILE, named_profile, stored
from expectations.data.profile.record import Profile
from expectations.data.report import Report, report
from expectations.data.scores import Distribution
from expectations.data.suite import DATASET, ROWS, fingerprint, on_scores, suites
from expectations.data.tables import column
from expectations.data.validating import judge
from expectations.verdicts import Judgement, Verdict
from retune.recipe import Recipe, Validation
from retune.recipe.flaws import DATASET_EXPECTATIONS, FLAWS
from retune.records import Pins, Rows, Screened
from retune.tracking import download_json

if TYPE_CHECKING:
    import polars as pl
    from great_expectations.core import ExpectationSuiteValidationResult

# What a person looks at; all of it small and without secrets.
FILES = (
    *("report.html", "report.json", "expectations.json", "data_docs", "reasons.png", "scores.png"),
)

# The profile that the dataset's was compared with: a `validation.reference` on any machine.
REFERENCE = "reference.json"

# Why there is nothing to say of scores.
NOT_ASKED = (
    "the classifier that scores rows was not asked: the dataset is rejected whatever it would say"
)


class Judged(NamedTuple):
    """The report on a feature table, and what else its files are made of; `figures` and `sections` go
    to its page beside those of the table; `compared` is the profile that its own was compared with."""

    report: Report
    results: "list[ExpectationSuiteValidationResult]"
    table: "pl.LazyFrame"
    config: Validation
    reference: Distribution | None
    figures: tuple[Figure, ...] = ()
    sections: tuple[Figure, ...] = ()
    compared: Profile | None = None

    def without_scores(self, why: str) -> "Judged":
        """Return it with what is expected of scores added as not judged."""
        missing = [
            Verdict(
                gate=GATE,
                name=expectation.meta["name"],
                expected=plain(expectation.meta["title"]),
                seen=not_asked(expectation.meta["name"], self.config) or why,
                limit=expectation.meta["limit"],
                setting=expectation.meta["setting"],
                severity=expectation.severity,
                passed=False,
                judged=False,
            )
            for expectation in on_scores(self.config)
        ]
        return self.with_verdicts([*self._before_the_filter(why), *missing])

    def with_verdicts(self, verdicts: Iterable[Verdict]) -> "Judged":
        """Return it with these verdicts instead of its own."""
        return self._replace(report=self.report.model_copy(update={"verdicts": list(verdicts)}))

    def _before_the_filter(self, why: str) -> list[Verdict]:
        """Return the verdicts; that enough rows remain is open while a filter waits for scores."""
        if self.config.keep_score_min is None and self.config.keep_top_share is None:
            return self.report.verdicts
        unknown = {"passed": False, "judged": False, "seen": f"before the filter by score: {why}"}
        return [
            verdict.model_copy(update=unknown)
            if verdict.passed and verdict.name == "min_rows"
            else verdict
            for verdict in self.report.verdicts
        ]

    def write(self, folder: Path) -> tuple[str, ...]:
        """Write FILES into `folder`, and REFERENCE if there is one; return their names."""
        (folder / "report.json").write_text(self.report.model_dump_json(indent=1))
        described = [result.to_json_dict() for result in self.results]
        (folder / "expectations.json").write_text(json.dumps(described, indent=1))
        _draw(self, folder)
        _write_page(self, folder)
        if self.compared is None:
            return FILES
        (folder / REFERENCE).write_text(self.compared.model_dump_json())
        return (*FILES, REFERENCE)


def reference(recipe: Recipe, pins: Pins) -> Reference:
    """Return what the dataset is compared with: what is kept of the last accepted run, but the
    profile that the recipe names, if it does. Raises SourceError for a file that is none or changed."""
    named, pinned = recipe.validation.reference, pins.reference
    profile = named_profile(named, pinned) if named and pinned else None
    if not pins.accepted:
        return Reference(profile=profile)
    scores = download_json(pins.accepted, "validate/scores.json")
    profile = profile or stored(download_json(pins.accepted, f"validate/{PROFILE}"))
    return Reference(Distribution.model_validate(scores) if scores else None, profile)


def screening(screened: Screened, recipe: Recipe, reference: Reference = NO_REFERENCE) -> Judgement:
    """Return the verdicts on rows whose scores nobody has asked for yet; `reference` is what is kept of
    the last accepted run."""
    evidence = Evidence.of(screened.folder, recipe.dataset.acknowledged, reference)
    return _judgement(screened, recipe, evidence, scored=False)


def judgement(sound: Rows, recipe: Recipe, reference: Reference = NO_REFERENCE) -> Judgement:
    """Return the verdicts on the rows that validate settled, likewise."""
    asked = Asked(
        int(sound.metrics.get("scored", 0)),
        sound.metrics.get("score_agreement"),
        sound.metrics.get("score_correlation"),
    )
    evidence = Evidence.of(sound.folder, recipe.dataset.acknowledged, reference)
    return _judgement(sound, recipe, evidence._replace(asked=asked), scored=True)


def _judgement(
    output: Screened,
    recipe: Recipe,
    evidence: Evidence,
    scored: bool,
) -> Judgement:
    import polars as pl

    table, examples = pl.scan_parquet(output.features), pl.read_parquet(output.examples)
    judged = judge_table(table, examples, recipe.validation, evidence, scored)
    if judged.report.failed and not scored:
        judged = judged.without_scores(NOT_ASKED)
    # Of rows that pass before their scores are known, the report comes with these.
    tells = scored or judged.report.failed
    return judged.report.judgement(judged.write if tells else None, output.folder)


def judge_table(
    table: "pl.LazyFrame",
    examples: "pl.DataFrame",
    config: Validation,
    evidence: Evidence = NO_EVIDENCE,
    scored: bool = True,
) -> Judged:
    """Judge a feature table with dispositions; `examples` are excerpts (`row`, `reason`, `excerpt`).

    `evidence` is what else there is to judge by. Without `scored`, no expectation is on scores.
    """
    mixed = "part" in table.collect_schema()
    numbers = measures(table, config, evidence.reference.scores if scored else None, evidence.asked)
    numbers |= evidence.ignored.measures()
    numbers |= evidence.profile.measures() if evidence.profile else {}
    results = judge(_tables(table, numbers), suites(config, scored, mixed))
    suite = fingerprint(config, mixed)
    outcome = report(table, examples, results, numbers, suite, config, evidence)
    compared = evidence.reference.profile
    return Judged(outcome, results, table, config, evidence.reference.scores, compared=compared)


def _tables(table: "pl.LazyFrame", numbers: dict[str, float]) -> "dict[str, pl.LazyFrame]":
    """Return the two tables that the suites judge."""
    import polars as pl

    score = pl.col("sound_score")
    if (
        not table.select(pl.col("score").count()).collect(engine="streaming").item()
    ):  # no quantile of no scores is high enough
        sound = pl.col("disposition") != "quarantined"
        score = pl.when(sound).then(pl.lit(float("-inf"))).alias("sound_score")
    bounds = {
        name: _comparable(numbers.get(declared.measure), declared.bound)
        for name, declared in DATASET_EXPECTATIONS.items()
    }
    return {
        ROWS: table.select("row", *FLAWS, score),
        DATASET: pl.LazyFrame([bounds], schema_overrides=dict.fromkeys(bounds, pl.Float64)),
    }


def _comparable(value: float | None, bound: str) -> float | None:
    """Return a measure, on the wrong side of any limit where there is nothing to measure.

    None, which Great Expectations lets pass, where there is nothing to compare with.
    """
    if value is not None and isnan(value):
        return -inf if bound == "min" else inf
    return value


def _write_page(judged: Judged, folder: Path) -> None:
    """Write the page, also where Data Docs would be: GX's readers look for it there."""
    text = page(judged.report, [*_figures(judged), *judged.figures], judged.sections)
    (folder / "report.html").write_text(text, encoding="utf-8")
    (folder / "data_docs").mkdir(exist_ok=True)
    (folder / "data_docs" / "index.html").write_text(text, encoding="utf-8")


def _figures(judged: Judged) -> list[Figure]:
    """Return the histograms of what the rows have: scores, and how long messages are."""
    scores, config = sound_scores(judged.table).to_numpy(), judged.config
    lengths = column(judged.table, "chars").drop_nulls().to_numpy()
    figures = []
    if len(scores):
        limit, last = config.score_threshold, judged.reference
        words = "" if limit is None else f"threshold {limit:g}"
        title = "Scores" + ("; the line is the last accepted dataset" if last else "")
        quantiles = last.quantiles[1:-1] if last else ()
        drawn = histogram(scores, limit, words, is_min=True, outline=quantiles)
        figures.append(Figure(title, drawn))
    if len(lengths := lengths[lengths > 0]):
        longest = config.max_message_chars
        drawn = histogram(lengths, longest, f"at most {longest:,}")
        figures.append(Figure("Characters of each row's longest message", drawn))
    return figures


def _draw(judged: Judged, folder: Path) -> None:
    from retune.plots import reasons_chart, score_histogram

    def named(flaw: str) -> str:
        return flaw.replace("_", " ")

    counts = {named(finding.flaw): finding.rows for finding in judged.report.findings}
    tolerances = {named(flaw): judged.config.tolerance(flaw) for flaw in FLAWS}
    reasons_chart(counts, judged.report.rows, folder / "reasons.png", tolerances)
    score_histogram(
        sound_scores(judged.table).to_numpy(),
        folder / "scores.png",
        judged.config.score_threshold,
        judged.reference.quantiles if judged.reference else None,
    )
