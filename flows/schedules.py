"""When a recipe's runs are due, by the cron schedules in `prefect.yaml`: no server is asked."""

from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

from flows.recipes import entries


class Due(NamedTuple):
    """The last two times that a recipe was due, and the next one."""

    before: datetime
    last: datetime
    next: datetime

    @property
    def period(self) -> timedelta:
        return self.last - self.before


def dues(now: datetime) -> dict[str, Due]:
    """Return when scheduled recipes are due, by the recipe's name; of several schedules the one that
    comes next. A schedule that is not active, or no cron, is left out."""
    known: dict[str, Due] = {}
    for entry in filter(lambda entry: isinstance(entry, dict), entries()):
        name = (entry.get("parameters") or {}).get("name")
        schedules = [one for one in entry.get("schedules") or [] if isinstance(one, dict)]
        times = [
            _due(str(one["cron"]), str(one.get("timezone") or "UTC"), now)
            for one in schedules
            if one.get("cron") and one.get("active", True)
        ]
        if name and times:
            known[str(name)] = min(times, key=lambda due: due.next)
    return known


def _due(cron: str, zone: str, now: datetime) -> Due:
    from cronsim import CronSim  # comes with Prefect, which reads its schedules by it

    local = now.astimezone(ZoneInfo(zone))
    back = CronSim(cron, local, reverse=True)
    last, before = next(back), next(back)
    following = next(CronSim(cron, local))
    return Due(*(time.astimezone(UTC) for time in (before, last, following)))
