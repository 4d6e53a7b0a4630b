"""Verdicts of the data gate: what Great Expectations judged, in sentences that a person can act on."""

import re
from math import isnan
from typing import TYPE_CHECKING, Any

from expectations.data.evidence import Evidence
from expectations.data.findings import Finding, origins
from expectations.data.masking import mask
from expectations.data.repairs import Repairs
from expectations.data.totals import Totals
from expectations.verdicts import Verdict
from retune.escaping import visible
from retune.measures import MEASURES
from retune.recipe import Validation
from retune.recipe.flaws import DATASET_EXPECTATIONS, FLAWS

if TYPE_CHECKING:
    import polars as pl

GATE = "validate"
OF_SAMPLE = ("min_agreement", "min_correlation")  # expectations on re-scored rows
_NOTHING_TO_COMPARE = "no accepted run with other data, or too few scores, to compare with"
_MISSING = {
    "max_psi": _NOTHING_TO_COMPARE,
    "max_ks": _NOTHING_TO_COMPARE,
    "min_agreement": "not asked for (validation.classifier.sample)",
    "min_correlation": "no 30 stored scores to compare (validation.classifier.sample)",
    "max_score_share": "fewer than 20 scores",
    "max_unit_score_share": "fewer than 100 stored scores, validation.score_max below 5, or the last "
    "accepted run's scores lie there as well",
    "profile_drift": "no accepted run with other data (or validation.reference), or too few rows, to "
    "compare with",
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
IGNORED = "ignored_"  # how the names of expectations on what is not used begin


def verdict(
    entry: Any,
    table: "pl.LazyFrame",
    totals: Totals,
    findings: list[Finding],
    measures: dict[str, float],
    config: Validation,
    evidence: Evidence,
) -> Verdict:
    """Return the verdict on one expectation of a suite, from its result (`entry`) over a feature table.

    `totals` are its rows, `measures` the numbers that dataset expectations judge.
    """
    meta = entry.expectation_config.meta
    name = meta["name"]
    missing = _missing(name, totals, measures, config)
    if missing:
        observed = missing
    elif problem := entry.exception_info.get("exception_message"):
        observed = f"could not be judged: {visible(mask(problem))}"
    elif name in FLAWS:
        observed = _flaw_text(name, bool(entry.success), totals.rows, findings)
    elif name.startswith(IGNORED):
        observed = evidence.ignored.sentence(name.removeprefix(IGNORED)) or "none"
    elif name == "score_quantiles_min":
        few, scored = entry.result["unexpected_count"], entry.result["element_count"]
        scored -= entry.result.get("missing_count") or 0
        observed = f"{few:,} of {scored:,} scores below it; {_extremes(table)}"
    elif evidence.profile and DATASET_EXPECTATIONS[name].needs == "profile.enabled":
        observed = now_and_then(evidence.profile.seen(name, meta["limit"]))
    else:
        observed = _measure_text(name, bool(entry.success), table, totals, findings, measures)
    return Verdict(
        gate=GATE,
        name=name,
        expected=plain(meta["title"]),
        seen=observed,
        limit=meta["limit"],
        setting=meta["setting"],
        severity=entry.expectation_config.severity,
        passed=bool(entry.success) and not missing,
        judged=not missing,
        fix="" if entry.success else _setting(name, findings) or _fix(name, evidence.repairs),
    )


def plain(title: str) -> str:
    """Return what is expected with whole percents as people write them: 10%, as 5% is."""
    return re.sub(r"(?<=\d)\.0%", "%", title)


def now_and_then(observed: str) -> str:
    """Return what was seen of a dataset's size beside that of the one before, in plain words."""
    sizes = r"([\d,]+) rows, then ([\d,]+) \((\d+%)\)"
    return re.sub(sizes, r"\1 rows, \3 of the \2 of then", observed)


def _setting(name: str, findings: list[Finding]) -> str:
    """Return which setting makes the rows sound as they are, if one does."""
    if name.startswith(IGNORED):
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


def _missing(name: str, totals: Totals, measures: dict[str, float], config: Validation) -> str:
    """Return why there was nothing to judge the expectation `name` by; empty if there was."""
    if name in ("score_not_finite", "score_out_of_range"):
        return "" if totals.scored else "there are no scores"
    if name in ("score_missing", "max_score_share") and not config.score_required:
        return "not asked for (validation.score_required)"
    if name == "near_duplicate" and config.near_duplicate_similarity is None:
        return "not looked for (validation.near_duplicate_similarity)"
    if name in FLAWS or name == "score_quantiles_min":
        return ""
    metric = DATASET_EXPECTATIONS[name].measure
    return "" if metric in measures else _MISSING.get(name, _NOT_PROFILED)


def not_asked(name: str, config: Validation) -> str:
    """Return why the expectation `name` is none of the recipe's; empty if it is."""
    is_asked = name not in OF_SAMPLE or config.classifier.sample
    return "" if is_asked else _MISSING["min_agreement"]


def _flaw_text(flaw: str, success: bool, rows: int, findings: list[Finding]) -> str:
    finding = next((f for f in findings if f.flaw == flaw), None)
    if finding is None:
        return "none"
    text = f"{finding.rows / rows:.1%} ({finding.rows:,} of {rows:,} rows)"
    return text if success else f"{text}, {_example(finding)}"


def _measure_text(
    name: str,
    success: bool,
    table: "pl.LazyFrame",
    totals: Totals,
    findings: list[Finding],
    measures: dict[str, float],
) -> str:
    metric = DATASET_EXPECTATIONS[name].measure
    value = measures[metric]
    if isnan(value):
        return "there are no scores"
    text = MEASURES[metric].text(value)
    if name == "max_source_share":
        return f"{text} from {_largest_source(table)}"
    if metric in ("score_mean", "score_mode_share", "score_unit_share"):
        return f"{text}; {_extremes(table)}"
    if metric == "part_quarantined_share":
        worst = max(origins(table, "part"), key=lambda part: part.quarantined_share)
        return f"{text} of {visible(worst.name)} ({worst.quarantined:,} of {worst.rows:,} rows)"
    if metric == "quarantined_share":
        text = f"{text} ({totals.quarantined:,} of {totals.rows:,} rows)"
    elif metric == "accepted":
        text = f"{text} rows"
    else:
        return text
    return text if success else f"{text}: {_worst(findings)}"


def _largest_source(table: "pl.LazyFrame") -> str:
    """Name the source of most accepted rows; of several, the first by the alphabet."""
    import polars as pl

    accepted = table.filter(pl.col("disposition") == "accepted").group_by("source").len()
    largest = accepted.sort("len", "source", descending=[True, False]).head(1)
    names = largest.collect(engine="streaming")["source"].to_list()
    return visible(names[0]) if names else "nowhere"


def _extremes(table: "pl.LazyFrame") -> str:
    """Name the lowest and the highest score of the sound rows, and whose they are: of several, the
    first one's and the last one's."""
    import polars as pl

    score = pl.col("score")
    scored = table.filter(pl.col("disposition") != "quarantined").drop_nulls("score")
    ends = scored.filter((score == score.min()) | (score == score.max()))
    found = ends.select("score", "row").collect(engine="streaming").sort("score", "row")
    if found.is_empty():
        return "there are no scores"
    (low, first), (high, last) = found[[0, -1]].rows()
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
