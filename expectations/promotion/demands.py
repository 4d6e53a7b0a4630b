"""What is demanded of a candidate, each as a verdict of the gate `promote`.

What too few examples tell is not judged: it promotes nothing, and speaks against nobody.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING

from expectations.promotion.contest import PairedDifference, direction, shown_metric
from expectations.promotion.examples import lost, unmet
from expectations.promotion.statistics import FEWEST, examples_to_hold
from expectations.verdicts import Verdict, at_least, at_most, severity
from retune.measures import measure, title
from retune.outcomes import BATTERY, PASSED, averaged, scorer_of
from retune.recipe import Promotion, Recipe
from retune.recipe.evaluation import INCIDENTS
from retune.recipe.flaws import Severity
from retune.recipe.metrics import OF_JUDGE

if TYPE_CHECKING:
    import polars as pl

GATE = "promote"
NAMED = 5  # slices or items that a verdict names
Names = Callable[[Sequence[str]], list[str]]  # what examples are called, masked


def wins(
    differences: Sequence[PairedDifference], opponent: str, recipe: Recipe
) -> Iterable[Verdict]:
    """Yield a verdict for each metric that must be better than the opponent's.

    One that is equivalent does not promote, but speaks against nobody: it only warns.
    """
    by_metric = {shown_metric(one.metric): one for one in differences}
    for metric in map(shown_metric, recipe.promotion.wins):
        expected = f"better than the {opponent} by {words(metric)}"
        one = by_metric.get(metric)
        if one is None:
            yield unjudged("win", expected, _absent(metric), recipe, setting="promotion.wins")
        elif one.outcome == "undecided":
            yield unjudged("win", expected, told(one), recipe, setting="promotion.wins")
        else:
            gravity = severity(recipe, GATE, "win")
            harmless = one.outcome == "equivalent" and gravity == "critical"
            yield Verdict(
                gate=GATE,
                name="win",
                expected=expected,
                seen=told(one),
                setting="promotion.wins",
                severity="warning" if harmless else gravity,
                passed=one.outcome == "better",
            )


def no_worse(
    differences: Sequence[PairedDifference], opponent: str, recipe: Recipe
) -> Iterable[Verdict]:
    """Yield a verdict for each metric of a whole suite that may not be worse beyond its margin, and
    one for all slices of it.

    A margin that the recipe names has to be proven. Of any other metric it is enough that the
    candidate is not shown to be worse and that what was seen is within the margin: to prove five
    points takes hundreds of examples, and a rule that small suites cannot meet would promote nobody.
    What may be lost of the battery is said by its budget instead.
    """
    rule = recipe.promotion
    for one in differences:
        if one.is_slice or one.metric in rule.wins or _has_a_budget(one, rule):
            continue
        name = words(one.metric)
        expected = f"no worse than the {opponent} by {name}, within {amount(one, one.margin)}"
        is_undecided = not one.holds and one.outcome != "worse"
        if is_undecided and not _is_tolerated(one, rule):
            yield unjudged(
                "no_worse",
                expected,
                told(one, to_hold(one, rule, one.margin)),
                recipe,
                "promotion.margins",
            )
            continue
        yield Verdict(
            gate=GATE,
            name="no_worse",
            expected=expected,
            seen=_not_shown(one) if is_undecided else _held(one),
            limit=one.margin,
            setting="promotion.margins",
            severity=severity(recipe, GATE, "no_worse"),
            passed=one.holds or is_undecided,
        )
    yield from _slices([one for one in differences if one.is_slice], opponent, recipe)


def _is_tolerated(one: PairedDifference, rule: Promotion) -> bool:
    """Tell whether a difference that may be none need not be decided: nobody asked for a proof."""
    return not _is_asked(one, rule) and one.estimate >= -one.margin


def _has_a_budget(one: PairedDifference, rule: Promotion) -> bool:
    """Tell whether a metric is that of the battery, and nobody asked for more than its budget."""
    return one.metric == f"{BATTERY}/{PASSED}" and not _is_asked(one, rule)


def _is_asked(one: PairedDifference, rule: Promotion) -> bool:
    """Tell whether the recipe names a margin for a metric."""
    return bool({one.metric, scorer_of(one.metric)} & rule.margins.keys())


def _slices(
    differences: Sequence[PairedDifference], opponent: str, recipe: Recipe
) -> Iterable[Verdict]:
    if not differences:
        return
    worse = worse_slices(differences, lambda one: f"{one.examples} examples")
    yield Verdict(
        gate=GATE,
        name="no_worse_slice",
        expected=f"no slice of a suite on which it is shown to be worse than the {opponent}",
        seen=worse or f"{len(differences)} slices, none of them worse",
        setting="promotion.slices",
        severity=severity(recipe, GATE, "no_worse_slice"),
        passed=not worse,
    )


def worse_slices(
    slices: Sequence[PairedDifference], detail: Callable[[PairedDifference], str]
) -> str:
    """Return how many slices are worse and the first of them, each with a detail; "" if none is."""
    worse = [one for one in slices if one.outcome == "worse"]
    if not worse:
        return ""
    listed = "; ".join(
        f"{words(one.metric)} {signed(one, one.estimate)} ({detail(one)})" for one in worse[:NAMED]
    )
    more = f"; and {len(worse) - NAMED} more" if worse[NAMED:] else ""
    return f"{len(worse)} of {len(slices)}: {listed}{more}"


def floors(candidate: "pl.DataFrame", recipe: Recipe) -> Iterable[Verdict]:
    """Yield a verdict for each absolute demand; `candidate` is its table of grades."""
    for metric, limit in recipe.promotion.floors.items():
        value = mean(candidate, metric)
        scorer = scorer_of(metric)
        is_ceiling = direction(scorer) < 0
        bound = measure(scorer).text(limit)
        expected = (
            f"{words(shown_metric(metric))} {'at most' if is_ceiling else 'at least'} {bound}"
        )
        if value is None:
            yield unjudged("floor", expected, _absent(metric), recipe, "promotion.floors", limit)
            continue
        yield Verdict(
            gate=GATE,
            name="floor",
            expected=expected,
            seen=measure(scorer).text(value),
            limit=limit,
            setting="promotion.floors",
            severity=severity(recipe, GATE, "floor"),
            passed=(at_most if is_ceiling else at_least)(value, limit),
        )


def mean(grades: "pl.DataFrame", metric: str) -> float | None:
    """Return the weighted mean of a metric in a table of grades, None where it is not there."""
    import polars as pl

    whole, _, name = metric.partition("@")
    suite, _, scorer = whole.rpartition("/")
    table = averaged(grades).filter(pl.col("suite") == suite, pl.col("scorer") == scorer)
    if name:
        table = table.filter(pl.col("slice") == name)
    weights = float(table["weight"].sum())
    return float((table["value"] * table["weight"]).sum()) / weights if weights else None


def budget(
    candidate: "pl.DataFrame",
    references: Mapping[str, "pl.DataFrame"],
    names: Names,
    recipe: Recipe,
) -> Iterable[Verdict]:
    """Yield what of the battery the candidate has forgotten, relative to each of the references."""
    limit = recipe.promotion.budget
    for reference, grades in references.items():
        forgotten = lost(candidate, grades, BATTERY)
        if forgotten is None:
            continue
        count, exceeded = len(forgotten.examples), not at_most(forgotten.share, limit)
        is_shown = exceeded and shows_more(count, forgotten.passed, limit, recipe.promotion.alpha)
        seen = f"{count} of {forgotten.passed} ({forgotten.share:.1%})"
        listed = f"{seen}: {_listed(forgotten.examples, names)}" if count else seen
        chance = f"; of so few items that is no proof of more than {100 * limit:g}%"
        yield Verdict(
            gate=GATE,
            name="budget",
            expected=f"at most {100 * limit:g}% of the battery's items forgotten that the "
            f"{reference} passed",
            seen=f"{listed}{chance}" if exceeded and not is_shown else listed,
            limit=limit,
            setting="promotion.budget",
            severity=severity(recipe, GATE, "budget"),
            passed=not is_shown,
        )


def shows_more(count: int, examples: int, share: float, alpha: float) -> bool:
    """Tell whether `count` of `examples` show that it is more than a `share` of all (exact binomial
    test): an item that a model passed by luck is missed by the next one by luck."""
    from scipy.stats import binom

    return bool(binom.sf(count - 1, examples, share) <= alpha)


def incidents(candidate: "pl.DataFrame", names: Names, recipe: Recipe) -> Iterable[Verdict]:
    """Yield whether every case of the suite of incidents is passed, if there is one."""
    cases = unmet(candidate, INCIDENTS)
    if cases is None:
        return
    failed = cases.examples
    yield Verdict(
        gate=GATE,
        name="incidents",
        expected="no incident happens again",
        seen=f"{len(failed)} of {cases.passed} do: {_listed(failed, names)}"
        if failed
        else f"{cases.passed} cases, all passed",
        setting="evaluation.incidents",
        severity=severity(recipe, GATE, "incidents"),
        passed=not failed,
    )


# Words.


def words(metric: str) -> str:
    """Return a metric in words: `loss (held_out, @mail)`."""
    whole, _, name = metric.partition("@")
    suite, _, scorer = whole.rpartition("/")
    return f"{title(scorer)} ({suite}{f', {name}' if name else ''})"


def told(one: PairedDifference, to_hold: int | None = None, head: str = "") -> str:
    """Return in a sentence how a candidate differs, and how many examples would decide it.

    `to_hold` is how many would show that it is no worse, where that is what is demanded; `head` says in
    words what was found, in the place of the outcome.
    """
    sentence = f"{head or one.outcome}: {difference(one)}"
    if not isfinite(one.estimate):
        return f"worse: grades of the candidate are no numbers ({one.examples} examples)"
    if one.outcome != "undecided":
        return f"{sentence}{_by_noise(one)}"
    more = _shows(to_hold, "no worse") if to_hold else deciding(one)
    return f"{sentence}; {more}{_by_noise(one)}"


def difference(one: PairedDifference) -> str:
    """Return both means and their difference with its interval: `0.31 against 0.37 nats per token, better
    by 0.06 nats per token (95% interval +0.04 to +0.08, + is better; 82 examples)`.

    Where the outcome does not say which way it goes, it leans there only: `leaning worse by …`.
    """
    entry = measure(scorer_of(one.metric))
    numbers = f"{entry.number(one.candidate)} against {entry.text(one.opponent)}"
    way = "better" if one.estimate > 0 else "worse"
    leaning = "" if one.outcome == way else "leaning "
    change = f"{leaning}{way} by {amount(one, abs(one.estimate))}" if one.estimate else "the same"
    interval = "no interval of so few"
    if isfinite(one.low) and isfinite(one.high):
        share = f"{100 * one.confidence:.3g}%"
        ends = f"{signed(one, one.low, '')} to {signed(one, one.high, '')}"
        interval = f"{share} interval {ends}, + is better"
    return f"{numbers}, {change} ({interval}; {one.examples} examples)"


def deciding(one: PairedDifference) -> str:
    """Return in a clause how many examples would decide a difference, and what they would show."""
    if one.examples < FEWEST:
        return f"of fewer than {FEWEST} examples nothing is told"
    if one.needed is None:
        return "no number of examples would decide a difference as small as this"
    return _shows(one.needed, one.would_be or "what it is")


def _shows(count: int, what: str) -> str:
    shown = what if what.startswith("what") else f"that it is {what}"
    return f"at this difference about {count:,} examples would show {shown}"


def _by_noise(one: PairedDifference) -> str:
    """Return what the noise of training has to do with an outcome that is neither better nor worse."""
    examples_tell = one.low > 0 or one.high < 0 or max(-one.low, one.high) > one.margin
    if one.outcome in ("better", "worse") or not one.noise or not examples_tell:
        return ""
    if one.outcome == "undecided" and one.low <= 0 <= one.high:
        return ""
    known = " (assumed; `retune calibrate` measures it)" if one.assumed else ""
    deviation = f"{amount(one, one.noise)}{known}"
    return (
        f"; by chance two trainings of one recipe differ with a standard deviation of {deviation}"
    )


def _held(one: PairedDifference) -> str:
    if one.holds and one.low < -one.margin:
        few = "no worse in what was seen, and too few to show more"
        return told(one, head=few if one.outcome == "undecided" else "")
    return told(one)


def _not_shown(one: PairedDifference) -> str:
    """Return what was seen of a candidate that is not shown to be worse, nor to be no worse."""
    return told(one, head="not shown to be worse, which is enough here")


def amount(one: PairedDifference, value: float) -> str:
    """Return a difference as people read it; of shares it is one of percentage points."""
    entry = measure(scorer_of(one.metric))
    return f"{100 * value:.1f} points" if entry.is_share else entry.text(value)


def signed(one: PairedDifference, value: float, unit: str | None = None) -> str:
    """Return a difference with its sign and its unit, or with `unit` instead."""
    if not isfinite(value):
        return f"{'+' if value > 0 else '−'}∞"
    sign = "+" if value > 0 else "−" if value < 0 else ""
    size = amount(one, abs(value))
    return sign + (size if unit is None else f"{size.partition(' ')[0]} {unit}".rstrip())


def to_hold(one: PairedDifference, rule: Promotion, reach: float) -> int | None:
    """Return how many examples would show that it is no worse than by `reach`; None: no number would,
    or there are too few to tell."""
    if one.examples < FEWEST:
        return None
    enough = examples_to_hold(one.estimate, reach, one.spread, rule.alpha)
    return max(enough, one.examples + 1) if enough else None


def _listed(examples: Sequence[str], names: Names) -> str:
    shown = "; ".join(names(examples[:NAMED]))
    return f"{shown}; and {len(examples) - NAMED} more" if examples[NAMED:] else shown


def _absent(metric: str) -> str:
    if scorer_of(metric) in OF_JUDGE:
        return (
            f"no grade of the LLM judge counts by {metric}: the verdicts judge.agreement and "
            f"judge.no_votes say why"
        )
    return f"no example was graded by {metric}; name a suite and a scorer that there are"


def unjudged(
    name: str,
    expected: str,
    seen: str,
    recipe: Recipe,
    setting: str = "",
    limit: float | None = None,
    fix: str = "",
) -> Verdict:
    """Return a verdict on what there is too little to judge by."""
    gravity: Severity = severity(recipe, GATE, name)
    return Verdict(
        gate=GATE,
        name=name,
        expected=expected,
        seen=seen,
        limit=limit,
        setting=setting,
        severity=gravity,
        passed=False,
        judged=False,
        fix=fix,
    )
