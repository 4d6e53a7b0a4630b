"""Commands by a schedule, beside the runs: once when due, never twice at once, told however they end."""

from datetime import datetime, timedelta

import psutil
import pytest

from flows import chores
from flows.chores import BadCron, Chore, Chores

NOON = datetime.fromisoformat("2026-03-01T12:00:30+00:00")


@pytest.fixture(autouse=True)
def _home(monkeypatch, tmp_path):
    monkeypatch.setenv("RETUNE_HOME", str(tmp_path))


def chore(*command: str) -> Chore:
    return Chore(command, "*/10 * * * *", "--gc-cron")


def ended(some: Chores) -> None:
    for process in some._running.values():
        process.wait(60)


def test_what_is_due_runs_once_and_what_became_of_it_is_told(tmp_path):
    """Real commands: one that ends well, one that a person called wrongly."""
    good, wrong = chore("gc"), chore("gc", "--no-such-option")
    for one, words in ((good, "`retune gc`: Nothing is to go."), (wrong, "No such option")):
        some = Chores([one], NOON)
        assert some.look(NOON + timedelta(minutes=9)) == []
        assert not some._running
        assert some.look(NOON + timedelta(minutes=10)) == []
        assert len(some._running) == 1
        ended(some)
        (told,) = some.look(NOON + timedelta(minutes=11))
        assert words in told
        assert not some._running
    assert "0 kB  can be freed" in (tmp_path / "logs" / "gc.log").read_text()


def test_a_command_that_still_works_is_not_started_again_and_goes_with_us(monkeypatch):
    monkeypatch.setattr(chores, "_start", lambda one: chores.subprocess.Popen(one.command))
    some = Chores([chore("sleep", "600")], NOON)
    some.look(NOON + timedelta(hours=1))
    (first,) = some._running.values()
    some.look(NOON + timedelta(hours=2))
    assert list(some._running.values()) == [first]
    some.end()
    assert not psutil.pid_exists(first.pid)


def test_a_clock_that_was_wrong_and_is_set_back_does_not_put_off_what_is_due(monkeypatch):
    """A machine without a clock of its own may begin years ahead, until it has asked for the time."""
    monkeypatch.setattr(chores, "_start", lambda one: chores.subprocess.Popen(one.command))
    some = Chores([chore("true")], NOON + timedelta(days=400))
    assert some.look(NOON) == []
    assert not some._running
    some.look(NOON + timedelta(minutes=10))
    ended(some)
    assert len(some._running) == 1


def test_nothing_is_removed_unless_somebody_says_so():
    assert chores.chores(None, None, False) == []
    wanted = chores.chores("*/10 * * * *", "0 4 * * *", False)
    assert [one.command for one in wanted] == [("watch",), ("gc",)]
    assert chores.chores(None, "0 4 * * *", True)[0].command == ("gc", "--delete")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("soon", None, False), "--watch-cron: 'soon' is no cron schedule"),
        ((None, "61 * * * *", False), "--gc-cron: '61 "),
        ((None, None, True), "--gc-delete needs --gc-cron"),
    ],
)
def test_a_schedule_that_cannot_be_read_is_refused_at_the_start(arguments, words):
    with pytest.raises(BadCron, match=words):
        chores.chores(*arguments)
