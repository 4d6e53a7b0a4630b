"""What a person is told while a training works: what is left comes first, since pages cut long lines."""

from datetime import UTC, datetime, timedelta

from retune.measures import format_duration


def news(
    step: int, total: int, loss: float, tokens_per_second: float, left: float | None, now: datetime
) -> str:
    """Return a line on a step; `left` are the seconds until the last one, None: not known yet."""
    share = f"step {step:,} of {total:,} ({step / total:.0%})"
    if left is None:
        head = f"{share.capitalize()}, its end is not known yet"
    elif not left:
        head = f"{share.capitalize()}, done"
    else:
        end = now.astimezone(UTC) + timedelta(seconds=left)
        day = "%H:%M" if end.date() == now.astimezone(UTC).date() else "%Y-%m-%d %H:%M"
        # Pages cut it off after some fifty characters; of the run there is more after the training.
        head = f"{format_duration(left)} of training left, {share}, until about {end:{day}} UTC"
    return f"{head}: loss {loss:.4f}, {tokens_per_second:,.0f} tokens/s"
