"""Whether enough rows are new for a run that nobody started by hand to train."""

from collections.abc import Mapping
from typing import NamedTuple

from retune.recipe import Schedule

# Why a sound row that was read may not be accepted, by the names of measures.
KNOWN = {"flaws/exact_duplicate": "exact duplicates", "flaws/near_duplicate": "near duplicates"}


class NewRows(NamedTuple):
    """Accepted rows, by their content: how many are `new` since an earlier run, and how many that had."""

    new: float
    before: float


def too_few(rows: NewRows, seen: Mapping[str, float], earlier: str, limits: Schedule) -> str | None:
    """Return why so few new rows are not worth a training, None if they are.

    `seen` are the measures of the data gate, `earlier` is the name of the run that they are counted
    against.
    """
    share = rows.new / rows.before if rows.before else 1.0
    wanted = []
    if rows.new < limits.min_new_rows:
        wanted.append(f"{limits.min_new_rows:,} wanted (schedule.min_new_rows)")
    if share < limits.min_new_share:
        wanted.append(
            f"{limits.min_new_share:.2%} of them wanted, {share:.2%} seen (schedule.min_new_share)"
        )
    if not wanted:
        return None
    return (
        f"not worth a training: {rows.new:,.0f} accepted rows are new since {earlier}, which had "
        f"{rows.before:,.0f}; {' and '.join(wanted)}{_lost(seen)}"
    )


def _lost(seen: Mapping[str, float]) -> str:
    """Say how many rows of the dataset are known already: they explain most of what is not new."""
    told = [f"{words}: {seen[name]:,.0f}" for name, words in KNOWN.items() if seen.get(name)]
    return f" (of {seen['rows']:,.0f} rows read, {'; '.join(told)})" if told else ""
