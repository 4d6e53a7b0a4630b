"""What a person is told while a training works: step and end first, since pages cut long lines."""

from datetime import UTC, datetime, timedelta

from retune.measures import format_duration


def news(
    step: int, total: int, loss: float, tokens_per_second: float, left: float | None, now: datetime
) -> str:
    """Return a line on a step; `left` are the seconds until the last one, None: not known yet."""
    share = f"Step {step:,} of {total:,} ({step / total:.0%})"
    if left is None:
        ends = "its end is not known yet"
    else:
        end = now.astimezone(UTC) + timedelta(seconds=left)
        day = "%H:%M" if end.date() == now.astimezone(UTC).date() else "%Y-%m-%d %H:%M"
        ends = f"ends about {end:{day}} UTC ({format_duration(left)} left)" if left else "done"
    return f"{share}, {ends}: loss {loss:.4f}, {tokens_per_second:,.0f} tokens/s"
