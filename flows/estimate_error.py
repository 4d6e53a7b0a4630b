"""How far the estimates of what runs would take were off: every run keeps both numbers."""

from collections.abc import Sequence
from statistics import median

LOOKED_AT = 10  # runs
TAKEN, EXPECTED = "run/seconds", "run/expected_seconds"  # metrics: from its start to its decision


def error_of(metrics: Sequence[dict[str, float]]) -> tuple[float | None, int]:
    """Return how far the estimates of the last runs were off, in the median, and how many those are.

    `metrics` are those of runs, the newest first; an error is a share of what was taken. None if no run
    that came to its decision had an estimate.
    """
    decided = [one for one in metrics if one.get(TAKEN)][:LOOKED_AT]
    errors = [abs(one[EXPECTED] - one[TAKEN]) / one[TAKEN] for one in decided if one.get(EXPECTED)]
    return (median(errors) if errors else None), len(errors)
