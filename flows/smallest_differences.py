"""What `retune plan` says of a promotion: the smallest difference that the recipe's suites can show."""

from pathlib import Path
from tempfile import TemporaryDirectory

from expectations.promotion import anchor
from expectations.promotion.contest import require_noise
from expectations.promotion.demands import words
from expectations.promotion.power import NO_RUN, LastRun, detectable, last_run
from flows.plan import Plan
from retune.calibration import stored_noise
from retune.outcomes import ARTIFACT, HELD_OUT, LOSS
from retune.outputs import read_output
from retune.recipe import Recipe
from retune.records import Chats, Pins, Scores
from retune.tracking import download, newest_run


def smallest_differences(recipe: Recipe, pins: Pins, plan: Plan) -> list[list[str]]:
    """Return a line for each metric: its words, the smallest difference, and by what that is known.

    Raises NotCalibrated if a margin is a multiple of a noise that nobody has measured.
    """
    noise = stored_noise(recipe, pins)
    require_noise(recipe.promotion, noise)
    last = _last_run(recipe, plan)
    found = detectable(recipe.promotion, _examples(recipe, plan), last, noise)
    if plan.anchor and pins.champion and pins.champion.anchor:
        held = {anchor.METRIC: pins.champion.anchor.rows}
        rule, known = anchor.rule_of(recipe.promotion), anchor.as_anchor(noise)
        found += detectable(rule, held, _of_anchor(last), known)
    return [[f"smallest change: {words(one.metric)}", one.effect, one.means] for one in found]


def anchor_rows(pins: Pins, plan: Plan) -> list[list[str]]:
    """Return what is measured again of the champion's rows, if there is one."""
    if not plan.anchor or not pins.champion or plan.anchor.done:
        return []
    kept, version = pins.champion.anchor, pins.champion.version
    count = f"{kept.rows:,} rows" if kept else "unknown"
    return [["to measure of the anchor", count, f"the rows that version {version} was judged by"]]


def _of_anchor(last: LastRun) -> LastRun:
    """Return what the last run tells of losses on the anchor: they vary as those of its own rows."""
    spreads, values = anchor.as_anchor(last.spreads), anchor.as_anchor(last.values)
    return LastRun({}, spreads, values)


def _examples(recipe: Recipe, plan: Plan) -> dict[str, int]:
    """Return how many examples the metrics have, as far as that is known beforehand."""
    if not plan.formatting.done:
        return {}
    import polars as pl

    held_out = read_output(plan.formatting, Chats).held_out
    rows = int(pl.scan_parquet(held_out).select(pl.len()).collect().item())
    return {f"{HELD_OUT}/{LOSS}": min(rows, recipe.evaluation.loss_rows)}


def _last_run(recipe: Recipe, plan: Plan) -> LastRun:
    """Return what this evaluation tells if it was made before, else the recipe's last one in MLflow."""
    if plan.evaluate.done:
        return last_run(read_output(plan.evaluate, Scores).outcomes, recipe.promotion)
    run = newest_run(recipe, "tags.`retune.evaluate` LIKE 'r%'")
    if run is None:
        return NO_RUN
    with TemporaryDirectory(prefix="retune-plan-") as folder:
        outcomes = download(run, ARTIFACT, Path(folder))
        return last_run(outcomes, recipe.promotion) if outcomes else NO_RUN
