"""The candidate beside its opponent, metric by metric: better, equivalent, worse, or undecided.

Both have met the same examples, and every difference is that of pairs. What nobody can tell apart
is *equivalent*; what too few examples tell is *undecided*, which is another thing.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import inf, isfinite
from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from expectations.data.masking import mask
from expectations.promotion.noise import NoiseFloor, beside, noise_floor
from expectations.promotion.statistics import (
    FEWEST,
    Estimate,
    examples_to_differ,
    examples_to_equal,
    fewest_to_hold,
    holm,
    mean_difference,
    share_difference,
)
from retune.errors import RetuneError
from retune.measures import measure
from retune.outcomes import averaged, scorer_of
from retune.recipe import Promotion
from retune.recipe.evaluation import INCIDENTS

if TYPE_CHECKING:
    import polars as pl

Finding = Literal["better", "equivalent", "worse", "undecided"]
LOSS_MARGIN, SHARE_MARGIN, RELATIVE_MARGIN = 0.01, 0.05, 0.05


class NotCalibrated(RetuneError):
    """A margin is a multiple of a noise that nobody has measured."""


class PairedDifference(BaseModel):
    """How a candidate differs from its opponent by one metric; what is better is positive.

    `candidate` and `opponent` are the means over the `examples` that both were graded on. The interval
    is of 1 - alpha; `p` is the chance of such a difference if there is none, corrected for the others
    of its family.
    """

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="strings")

    metric: str = Field(description="<suite>/<scorer>, of a slice <suite>/<scorer>@<slice>.")
    examples: int = Field(description="Examples that both were graded on.")
    left_out: int = Field(0, description="Examples that only one of them was graded on.")
    candidate: float = Field(description="Mean of the candidate.")
    opponent: float = Field(description="Mean of the opponent.")
    estimate: float = Field(description="The difference; positive: the candidate is better.")
    low: float = Field(description="Lower bound of the difference.")
    high: float = Field(description="Upper bound of the difference.")
    p: float = Field(1.0, description="Chance of it if there is no difference, after Holm.")
    margin: float = Field(description="What counts as no difference.")
    noise: float = Field(
        0.0, description="Noise of training: standard deviation between replicas of one recipe."
    )
    assumed: bool = Field(False, description="Whether nobody has calibrated that noise.")
    spread: float = Field(0.0, description="Standard deviation of one example's difference.")
    holds: bool = Field(
        description="Whether it is shown to be no worse than the margin allows, or, by a suite of 0/1 "
        "grades that is too small for any outcome to show that, not worse at all."
    )
    outcome: Finding = Field(description="better, equivalent, worse or undecided.")
    needed: int | None = Field(
        None, description="Examples that would decide it; None: decided, or no number would."
    )
    would_be: Finding | None = Field(
        None,
        description="What so many examples would show if the difference stays; None: not known.",
    )
    confidence: float = Field(
        0.95, description="Share of such intervals that hold the true difference."
    )

    @property
    def is_slice(self) -> bool:
        return "@" in self.metric


class _Pairs(NamedTuple):
    """The graded examples of one metric, by `candidate`, `opponent` and `weight`; its suite has so many
    `slices`."""

    metric: str
    table: "pl.DataFrame"
    left_out: int
    slices: int


def contest(
    candidate: "pl.DataFrame", opponent: "pl.DataFrame", rule: Promotion, noise: Mapping[str, float]
) -> tuple[PairedDifference, ...]:
    """Return the differences of two tables of grades (see `retune.outcomes.read_grades`), one model
    each: required wins first, then other metrics, then slices, in the order of their names.

    The cases of incidents are left out, of which no statistics are asked.

    `noise` is the calibrated one by metric; of what it lacks one is assumed. Measures that are better in
    neither direction are left out. Raises NotCalibrated for a margin in multiples of a noise that is not
    there.
    """
    pairs = list(_pairs(candidate, opponent, rule))
    families = [
        [one for one in pairs if one.metric in rule.wins],
        [one for one in pairs if one.metric not in rule.wins and "@" not in one.metric],
        [one for one in pairs if one.metric not in rule.wins and "@" in one.metric],
    ]
    return tuple(difference for family in families for difference in _family(family, rule, noise))


def margin(metric: str, rule: Promotion, noise: Mapping[str, float], opponent: float) -> float:
    """Return what counts as no difference: what the recipe says of the slice, the metric or the scorer,
    else the default of the kind of measure. Raises NotCalibrated."""
    whole = metric.partition("@")[0]
    scorer = scorer_of(metric)
    for name in (metric, whole, scorer):
        if name in rule.multiples:
            return rule.multiples[name] * _noise(metric, noise, rule.margins[name])
        if name in rule.margins:
            return float(rule.margins[name])
    return default_margin(scorer, opponent)


def require_noise(rule: Promotion, noise: Mapping[str, float]) -> None:
    """Raise NotCalibrated if a margin is a multiple of a noise that is not there."""
    for name in rule.multiples:
        metrics = [known for known in noise if name in (known, scorer_of(known))]
        for metric in metrics or [name.partition("@")[0]]:
            _noise(metric, noise, rule.margins[name])


def default_margin(scorer: str, opponent: float) -> float:
    """Return the margin of a measure that the recipe says nothing of."""
    entry = measure(scorer)
    if entry.unit == "nats per token":
        return LOSS_MARGIN
    if entry.is_share:
        return SHARE_MARGIN
    return RELATIVE_MARGIN * abs(opponent) if isfinite(opponent) else 0.0


def _noise(metric: str, noise: Mapping[str, float], margin: object) -> float:
    whole = metric.partition("@")[0]
    if metric not in noise and whole not in noise:
        raise NotCalibrated(
            f"promotion.margins: {margin} of {whole} is a multiple of a noise that was not measured for "
            f"this base and these suites; run `retune calibrate RECIPE`, or give the margin as a number"
        )
    return noise.get(metric, noise.get(whole, 0.0))


def shown_metric(metric: str) -> str:
    """Return a metric as it may be shown: the name of a slice comes with the data, and is masked."""
    whole, at, name = metric.partition("@")
    return f"{whole}{at}{mask(name)}" if name else whole


def direction(scorer: str) -> int:
    """Return 1 if more of a measure is better, -1 if less is, 0 if neither."""
    return {"higher": 1, "lower": -1}.get(measure(scorer).better or "", 0)


# Pairs.


def _pairs(
    candidate: "pl.DataFrame", opponent: "pl.DataFrame", rule: Promotion
) -> Iterable[_Pairs]:
    """Yield the pairs of every metric, and of its slices where there are several that are wanted."""
    import polars as pl

    both = averaged(candidate).join(
        averaged(opponent),
        on=("suite", "scorer", "example"),
        how="full",
        coalesce=True,
        suffix="_o",
    )
    both = both.select(
        *("suite", "scorer", "example"),
        pl.coalesce("slice", "slice_o").alias("slice"),
        pl.col("value").alias("candidate"),
        pl.col("value_o").alias("opponent"),
        pl.mean_horizontal("weight", "weight_o").alias("weight"),
    ).sort("suite", "scorer", "example")
    for (suite, scorer), table in both.group_by("suite", "scorer", maintain_order=True):
        if suite == INCIDENTS or not direction(str(scorer)):
            continue
        metric = f"{suite}/{scorer}"
        slices = table.partition_by("slice", as_dict=True, maintain_order=True)
        yield _of(metric, table, len(slices))
        for (name,), part in sorted(slices.items(), key=lambda item: str(item[0][0])):
            wanted = (rule.slices and len(slices) > 1) or f"{metric}@{name}" in rule.wins
            if wanted and len(part) >= FEWEST:
                yield _of(f"{metric}@{name}", part, len(slices))


def _of(metric: str, table: "pl.DataFrame", slices: int) -> _Pairs:
    paired = table.drop_nulls(["candidate", "opponent"])
    return _Pairs(metric, paired, len(table) - len(paired), slices)


# Differences.


def _family(
    pairs: Sequence[_Pairs], rule: Promotion, noise: Mapping[str, float]
) -> list[PairedDifference]:
    """Return the differences of metrics that are corrected for each other."""
    drawn = [_drawn(one, rule, noise) for one in pairs]
    chances = holm([beside(one.estimate, one.noise.value, rule.alpha) for one in drawn])
    return [
        _difference(one, p, rule, noise, len(drawn)) for one, p in zip(drawn, chances, strict=True)
    ]


class _Drawn(NamedTuple):
    """The estimate of a metric's difference, by the pairs in `table`, beside the noise of training."""

    pairs: _Pairs
    table: "pl.DataFrame"
    estimate: Estimate
    noise: NoiseFloor


def _drawn(pairs: _Pairs, rule: Promotion, noise: Mapping[str, float]) -> _Drawn:
    table, estimate = _estimate(pairs, rule)
    opponent = _mean(table, "opponent")
    floor = noise_floor(pairs.metric, noise, rule.assumed_noise, opponent, pairs.slices)
    return _Drawn(pairs, table, estimate, floor)


def _estimate(pairs: _Pairs, rule: Promotion) -> "tuple[pl.DataFrame, Estimate]":
    """Return the pairs that count, and the estimate of their difference, better being positive.

    A grade of the opponent that is no number has nothing to compare with. Of the candidate it is as bad
    as can be, so that nothing is gained by leaving it out.
    """
    import polars as pl

    sign = direction(scorer_of(pairs.metric))
    table = pairs.table.filter(pl.col("opponent").is_finite(), pl.col("weight") > 0)
    if not table["candidate"].is_finite().all():
        return table, Estimate(-inf, -inf, -inf, 0.0, inf)
    if len(table) < FEWEST:
        value = _mean(table, "candidate") - _mean(table, "opponent") if len(table) else 0.0
        return table, Estimate(sign * value, -inf, inf, 1.0, 0.0)
    if _is_binary(pairs.metric, table):
        gained = table["candidate"] - table["opponent"]
        won, lost = int((sign * gained > 0).sum()), int((sign * gained < 0).sum())
        return table, share_difference(won, lost, len(table), rule.alpha)
    differences = sign * (table["candidate"] - table["opponent"]).to_numpy()
    weights = table["weight"].to_numpy()
    return table, mean_difference(differences, weights, rule.alpha, rule.resamples, rule.seed)


def _is_binary(metric: str, table: "pl.DataFrame") -> bool:
    """Tell whether a metric is a share of examples whose grades are all 0 or 1."""
    if not measure(scorer_of(metric)).is_share:
        return False
    grades = (table["candidate"].is_in([0.0, 1.0]) & table["opponent"].is_in([0.0, 1.0])).all()
    return bool(grades) and table["weight"].n_unique() == 1


def _mean(table: "pl.DataFrame", side: str) -> float:
    weights = float(table["weight"].sum())
    return float((table[side] * table["weight"]).sum()) / weights if weights else 0.0


def _difference(
    drawn: _Drawn, p: float, rule: Promotion, noise: Mapping[str, float], family: int
) -> PairedDifference:
    pairs, table, estimate, floor = drawn
    opponent = _mean(table, "opponent")
    limit = margin(pairs.metric, rule, noise, opponent)
    outcome = _outcome(estimate, p, limit, floor.value, rule.alpha)
    needed, would_be = None, None
    if outcome == "undecided":
        is_share = _is_binary(pairs.metric, table)
        alpha = rule.alpha / family
        needed, would_be = _needed(estimate, limit, floor.value, alpha, is_share, len(table))
    return PairedDifference(
        metric=shown_metric(pairs.metric),
        examples=len(table),
        left_out=len(pairs.table) - len(table) + pairs.left_out,
        candidate=_mean(table, "candidate"),
        opponent=opponent,
        estimate=estimate.value,
        low=estimate.low,
        high=estimate.high,
        p=p,
        margin=limit,
        noise=floor.value,
        assumed=floor.is_assumed and bool(floor.value),
        spread=estimate.spread if isfinite(estimate.spread) else 0.0,
        holds=_holds(pairs.metric, estimate, outcome, limit, table, rule.alpha),
        outcome=outcome,
        needed=needed,
        would_be=would_be,
        confidence=1 - rule.alpha,
    )


def _outcome(estimate: Estimate, p: float, margin: float, noise: float, alpha: float) -> Finding:
    """Return what an estimate says; `p` is beside the noise of training.

    Equivalent: the whole interval is within the margin (two one-sided tests), or within what two
    trainings of one recipe differ by. Better or worse: the difference is significant, and larger than
    the margin.
    """
    value, low, high, *_ = estimate
    if value == -inf:
        return "worse"
    reach = max(margin, within_noise(noise, alpha))
    if -reach <= low and high <= reach:
        return "equivalent"
    if p <= alpha and abs(value) > margin:
        return "better" if value > 0 else "worse"
    return "undecided"


def within_noise(noise: float, alpha: float) -> float:
    """Return by how much two replicas differ at most, but for one in 1 / alpha."""
    from scipy.stats import norm

    return float(norm.isf(alpha / 2)) * noise


def _holds(
    metric: str,
    estimate: Estimate,
    outcome: Finding,
    margin: float,
    table: "pl.DataFrame",
    alpha: float,
) -> bool:
    """Tell whether a candidate is no worse; of a handful of probes, whether it passes as many."""
    if outcome == "worse":
        return False
    if estimate.low >= -margin:
        return True
    too_small = len(table) < fewest_to_hold(margin, alpha)
    return too_small and len(table) > 0 and _is_binary(metric, table) and estimate.value >= 0


def _needed(
    estimate: Estimate, margin: float, noise: float, alpha: float, is_share: bool, examples: int
) -> tuple[int | None, Finding | None]:
    """Return how many examples would decide at this effect, for a difference, else for none; and what
    they would show."""
    if not estimate.spread:
        return (None if examples >= FEWEST else FEWEST), None
    value, spread = estimate.value, estimate.spread
    count = examples_to_differ(value, margin, spread, noise, alpha, is_share=is_share)
    if count:
        return max(count, examples + 1), "better" if value > 0 else "worse"
    reach = max(margin, within_noise(noise, alpha))
    count = examples_to_equal(value, reach, spread, alpha)
    return (max(count, examples + 1), "equivalent") if count else (None, None)
