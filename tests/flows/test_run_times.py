"""How long a run worked and waited, by its states, and what its page says of it."""

from datetime import UTC, datetime, timedelta

from prefect.states import Completed, Paused, Pending, Running, Scheduled

from flows.endings import _message
from flows.run_times import Times, times

BEGIN = datetime(2026, 11, 27, 23, 55, tzinfo=UTC)


def after(minutes: float) -> datetime:
    return BEGIN + timedelta(minutes=minutes)


def test_a_run_worked_on_both_sides_of_its_wait():
    states = [
        Pending(timestamp=after(-1)),
        Running(timestamp=after(0)),
        Paused(name="Suspended", timestamp=after(7), timeout_seconds=9e5),
        Paused(name="AwaitingApproval", timestamp=after(7), timeout_seconds=9e5),
        Scheduled(name="Resuming", timestamp=after(38)),
        Running(timestamp=after(39)),
    ]
    taken = times(list(reversed(states)), after(41))
    assert taken == Times(worked=9 * 60, waited=31 * 60)
    assert str(taken) == "worked 9 min, waited 31 min for approval"
    ended = times([*states, Completed(timestamp=after(41))], after(600))
    assert ended == taken


def test_a_run_that_waited_for_nobody_says_no_more():
    assert "waited" not in str(times([Running(timestamp=after(0))], after(2)))


def test_lines_of_a_message_stay_apart_where_a_page_shows_them_in_one():
    assert _message("colours/1 serves; reason (Ann): reads well") == (
        "colours/1 serves; reason (Ann): reads well."
    )
    assert _message("dataset rejected:\n- expected: a; seen: b (x.y)\nRepair it.") == (
        "dataset rejected:\n- expected: a; seen: b (x.y).\nRepair it."
    )
