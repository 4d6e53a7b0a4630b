"""Thresholds for a recipe, taken from a dataset that is known to be good."""

from math import ceil, floor
from typing import TYPE_CHECKING, Any

from expectations.data.evidence import Evidence
from expectations.data.features import sound_scores, unscored, with_disposition
from expectations.data.judgement import judge_table
from expectations.data.profile.alarms import LEAST_ROWS
from expectations.data.profile.looks import Looks
from expectations.data.profile.record import Profile
from expectations.data.scores import distribution
from expectations.data.tables import column, sums
from expectations.data.totals import totals
from expectations.verdicts import Verdict
from retune.errors import RetuneError
from retune.recipe import Validation
from retune.recipe.flaws import FLAWS

if TYPE_CHECKING:
    import polars as pl

ROOM = 1.5  # how many times the flaws of the good dataset a later one may have
LEAST_ROOM = 0.005  # share of rows; what the good dataset has once, a later one may have twice
FEWER_ROWS = 0.8  # share of the good dataset's rows that a later one must have
LONGER = 2  # times the longest message
STEPS_OF_STD = 0.5  # how far the mean score may move, in standard deviations


# What says how large a dataset is, or of what it is made, and not whether it is good.
_MUCH = 0.1  # share of rows with a flaw; up to that, thresholds give it room
_PLAIN_SCALE = ("min_rows", "max_message_chars", "oversized_message", "max_source_share")


class Implausible(RetuneError):
    """A dataset that is said to be good, in which a share of rows is no good one's."""


def require_plausible(
    table: "pl.LazyFrame", examples: "pl.DataFrame", seen: Looks | None, config: Validation
) -> None:
    """Raise Implausible, with an example of each, if a dataset that is to be a model for others fails
    a critical expectation at its default limit.

    `table` is its feature table, `examples` masked excerpts of flawed rows, `seen` its profile; of
    `config` only what says how the rows are read counts, none of its limits.
    """
    defaults = Validation().model_copy(
        update={name: getattr(config, name) for name in ("keep", "languages", "special_tokens")}
    )
    evidence = Evidence(profile=seen)
    judged = judge_table(unscored(table, defaults), examples, defaults, evidence, scored=False)
    counts = {finding.flaw: finding.rows for finding in judged.report.findings}
    failed = [
        verdict
        for verdict in judged.report.failed
        if verdict.name not in _PLAIN_SCALE
        and (verdict.name not in FLAWS or counts[verdict.name] > _MUCH * judged.report.rows)
    ]
    if failed:
        raise Implausible(_refusal(failed))


def _refusal(failed: list[Verdict]) -> str:
    lines = [f"- {verdict.seen} (expected: {verdict.expected})" for verdict in failed]
    return "\n".join(
        (
            "this dataset is no model of a good one; no thresholds are written:",
            *lines,
            "Repair the dataset, or set these limits in the recipe yourself "
            f"({', '.join(verdict.setting for verdict in failed)}).",
        )
    )


def record_of(seen: Looks | None) -> Profile:
    """Return the profile that later datasets can be compared with. Raises Implausible where there is
    none to compare with."""
    if seen and seen.profile.rows >= LEAST_ROWS:
        return seen.profile
    raise Implausible(
        f"no profile is written: fewer than {LEAST_ROWS} rows have a question and an answer, or the "
        f"recipe wants none (validation.profile.enabled)"
    )


def thresholds(table: "pl.LazyFrame") -> dict[str, Any]:
    """Return the section `validation` of a recipe, as far as it differs from the defaults.

    `table` is the feature table of the good dataset, with scores (see `expectations.data.features`).
    Datasets like it pass with some room: half as many flaws more, a mean score within half a
    standard deviation, the 5 % quantile no lower than that.
    """
    import polars as pl

    defaults = Validation()
    scores = sound_scores(with_disposition(table, defaults))
    if scores.is_empty():
        table = table.with_columns(score_missing=pl.lit(False))
    of = totals(with_disposition(table, defaults))
    shares = {flaw: rows / of.rows for flaw, rows in sums(table, FLAWS).items()}
    longest = table.select(pl.col("chars").max()).collect(engine="streaming").item() or 1
    settings: dict[str, Any] = {
        "min_rows": max(1, floor(FEWER_ROWS * of.accepted)),
        "max_quarantined_share": _with_room(of.quarantined / of.rows),
        "max_message_chars": _rounded_up(LONGER * max(1, longest)),
        "tolerances": {
            flaw: _with_room(share)
            for flaw, share in shares.items()
            if share and not flaw.startswith("score_")
        },
    }
    sources = column(table.group_by("source").len(), "len").to_list()
    if len(sources) > 1:
        settings["max_source_share"] = _with_room(max(sources) / sum(sources))
    return settings | _score_thresholds(scores)


def _score_thresholds(scores: "pl.Series") -> dict[str, Any]:
    summary = distribution(scores)
    if summary is None:
        return {"score_required": False}
    defaults = Validation()
    low, high = summary.quantiles[0], summary.quantiles[-1]
    step = STEPS_OF_STD * (float(scores.to_numpy().std(ddof=1)) if len(scores) > 1 else 0.0)
    return {
        "score_min": min(defaults.score_min, floor(low)),
        "score_max": max(defaults.score_max, ceil(high)),
        "score_mean_min": round(summary.mean - step, 3),
        "score_mean_max": round(summary.mean + step, 3),
        "score_quantiles_min": {0.05: round(summary.quantiles[50] - step, 3)},
        "min_distinct_scores": min(defaults.min_distinct_scores, summary.distinct),
    }


def _with_room(share: float) -> float:
    return min(1.0, ceil(1000 * max(ROOM * share, share + LEAST_ROOM)) / 1000)


def _rounded_up(number: int) -> int:
    """Return a round number that is not smaller, e.g. 20,000 for 13,579."""
    unit = 10 ** max(0, len(str(number)) - 1)
    return ceil(number / unit) * unit
