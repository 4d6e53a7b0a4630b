"""A comparison in sentences: what a person reads first."""

from collections.abc import Iterator
from math import isfinite

from expectations.promotion.contest import PairedDifference
from expectations.promotion.demands import signed, words
from flows.compared.evidence import VERSION
from flows.compared.records import ComparedRun, Comparison, DataChange, MetricChange
from retune.measures import measure

NAMED = 3  # settings and versions in a sentence


def headline(comparison: Comparison) -> str:
    """Return in one sentence which run is better, by the examples that both were asked."""
    whole = [one for one in comparison.differences if not one.is_slice]
    if not whole:
        return "Which run is better cannot be told: they were asked no example in common."
    parts = []
    for outcome in ("better", "worse", "undecided", "equivalent"):
        names = [words(one.metric) for one in whole if one.outcome == outcome]
        parts += [f"{outcome} at {', '.join(names)}"] if names else []
    return f"The newer run, against the older one: {'; '.join(parts)}."


def ended(run: ComparedRun) -> str:
    """Return how a run ended, and what its candidate is now."""
    now = ", serves now" if run.serves else ", rolled back since" if run.rolled_back else ""
    version = f"{run.version}: " if run.version else ""
    return f"{version}{run.outcome or run.status.lower()}{now}"


def told(one: PairedDifference) -> str:
    """Return a difference with its interval: `+0.0301 (+0.02 to +0.04)`."""
    if not (isfinite(one.low) and isfinite(one.high)):
        return f"{signed(one, one.estimate)} (no interval: too few examples)"
    interval = f"{signed(one, one.low, '')} to {signed(one, one.high, '')}"
    return f"{signed(one, one.estimate)} ({interval})"


def causes(comparison: Comparison) -> list[str]:
    """Return in short sentences what differs between the runs before any training."""
    found = [*_recipe(comparison), *_data(comparison.data), *_environment(comparison)]
    return found or ["Nothing differs in recipe, data or environment: this is a run of the same."]


def _recipe(comparison: Comparison) -> Iterator[str]:
    # That the data is another version is told by its rows.
    changes = [one for one in comparison.recipe if not one.name.startswith(VERSION)]
    if changes:
        named = ", ".join(
            f"{one.name} {value(one.older)} → {value(one.newer)}" for one in changes[:NAMED]
        )
        more = f" and {len(changes) - NAMED} more" if len(changes) > NAMED else ""
        yield f"Recipe: {named}{more}."


def _data(change: DataChange | None) -> Iterator[str]:
    if change and change.added + change.removed + change.edited:
        about = "" if change.share == 1 else "about "
        yield (
            f"Data: {about}{change.added:,} rows added, {change.removed:,} removed, "
            f"{change.edited:,} edited, {change.same:,} the same."
        )


def _environment(comparison: Comparison) -> Iterator[str]:
    if changes := comparison.environment:
        more = f" and {len(changes) - NAMED} more" if len(changes) > NAMED else ""
        verb = "differs" if len(changes) == 1 else "differ"
        yield f"Environment: {', '.join(one.name for one in changes[:NAMED])}{more} {verb}."


def value(text: str | None) -> str:
    """Return a setting's value, short; `not set` for none."""
    if text is None or text == "null":
        return "not set"
    return text if len(text) <= 60 else f"{text[:59]}…"


def number(metric: MetricChange, of: float | None) -> str:
    """Return a measure's value; nothing where a run has none."""
    return "" if of is None else measure(metric.name.partition("/")[2]).text(of)


def missing_time(comparison: Comparison) -> str | None:
    """Return why there is no time of training in a run that reused it."""
    metrics = {one.name: one for one in comparison.metrics}
    seconds = metrics.get("train/seconds")
    if seconds is None or seconds.older is None or seconds.newer is None:
        return "A run that reused a training has no time or cost of it."
    return None
