"""Whether there is enough to learn for a run that nobody started by hand; asked before a GPU is used."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from expectations.new_rows import NewRows, too_few
from flows.compared.artifacts import table
from flows.compared.changed_rows import changed_rows
from flows.compared.rows import ARTIFACT
from flows.summary import Summary
from flows.unchanged import BUT_DATA, SKIPPED, by_itself, skipped
from retune.recipe import Recipe
from retune.records import Pins, Rows
from retune.tracking import DECISION, Run, client

if TYPE_CHECKING:
    import polars as pl


def not_worth_it(
    run: Run, recipe: Recipe, pins: Pins, sound: Rows, tags: Mapping[str, str]
) -> Summary | None:
    """Return how a run ends whose rows hold too little that is new, None if it goes on.

    Rows are counted against those of the champion's run, or of the last run whose data were accepted
    where none serves; by their content, after the data gate. Without such a run all rows are new. If
    anything but the data is another since (`tags` of `flows.unchanged` tell), it trains whatever is new.
    """
    schedule = recipe.schedule
    unlimited = not (schedule.min_new_rows or schedule.min_new_share)
    if unlimited or schedule.force or not by_itself():
        return None
    earlier = pins.champion.run_id if pins.champion else pins.accepted
    rows = _new_rows(earlier, run.id) if earlier else None
    if earlier is None or rows is None:
        return None
    stored = client().get_run(earlier)
    if stored.data.tags.get(BUT_DATA) != tags[BUT_DATA]:
        return None
    name = stored.info.run_name or earlier
    reason = too_few(rows, sound.metrics, name, schedule)
    if reason is None:
        return None
    run.set_tags({DECISION: f"{SKIPPED}: {reason}"})
    return skipped(recipe, run.id, reason)


def _new_rows(earlier: str, now: str) -> NewRows | None:
    """Count the rows of a run that an earlier one did not have; None if that kept none."""
    before, after = table(earlier, ARTIFACT), table(now, ARTIFACT)
    if before is None or after is None:
        return None
    changed = changed_rows(before, after)
    new = len(changed.added) + len(changed.edited)
    return NewRows(new / changed.share, len(before) / _share(before))


def _share(lines: "pl.DataFrame") -> float:
    return float(lines["share"][0]) if len(lines) else 1.0
