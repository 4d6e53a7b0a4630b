"""`retune status`, and the check that notices what nobody told: no server is asked."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from expectations.margins import LIMITS, margins
from flows.cli import app
from flows.schedules import dues
from flows.status import status
from retune.recipe import Recipe, flat
from retune.run_log import ends, note_end
from retune.tracking import DECISION, OUTCOME, client, start_run
from tests.databases import furnish, working_in
from tests.flows.notified import receiving

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
SMALLEST = {"name": "mail", "model": {"base": "a/b"}, "dataset": {"source": "c/d"}}
YAML = """
deployments:
- name: mail
  parameters: {name: mail}
  schedules: [{cron: "0 2 * * 0", timezone: Etc/UTC}]
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    (tmp_path / "prefect.yaml").write_text(YAML)
    monkeypatch.chdir(tmp_path)
    with working_in(monkeypatch, furnish(tmp_path / "home")):
        yield tmp_path


def test_when_a_run_is_due(home):
    due = dues(NOW)["mail"]
    assert due.period == timedelta(days=7)
    assert due.last == datetime(2026, 11, 22, 2, tzinfo=UTC)
    assert due.next == datetime(2026, 11, 29, 2, tzinfo=UTC)


def test_a_recipe_without_a_finished_run_in_its_period_is_told(home):
    assert status(datetime.now(UTC)).problems == []  # a store made today has missed nothing
    note_end("mail", "Rejected", "dataset rejected")
    now = datetime.now(UTC)
    assert status(now + timedelta(days=7)).problems == []
    (problem,) = status(now + timedelta(days=9)).problems
    assert problem.startswith("mail: no run has finished since")
    assert "one is due every 7 d" in problem
    note_end("mail", "Skipped", "unchanged")
    assert [end.ending for end in ends()] == ["Rejected", "Skipped"]
    (one,) = status().recipes
    assert (one.marks, one.last_ending) == ("✗·", "Skipped")


def test_a_crash_is_no_finished_run(home):
    with pytest.raises(OSError, match="gone"), start_run(Recipe.parse(SMALLEST), "mail 1", {}):
        raise OSError("the disk is gone")
    later = datetime.now(UTC) + timedelta(days=9)
    (problem,) = status(later).problems
    assert "no run has finished ever" in problem


def test_a_run_that_lost_its_process_is_told(home):
    with start_run(Recipe.parse(SMALLEST), "mail 1", {}) as run:
        run.log_metrics({"evaluate/loss/base": 2.0, "evaluate/loss/tuned": 1.0})
    with start_run(Recipe.parse(SMALLEST), "mail 2", {}) as run:
        assert status().recipes[0].marks[-1] == "…"
        hangs = status(datetime.now(UTC) + timedelta(hours=80))
        assert "mail 2 has been at work since" in hangs.problems[0]
        import socket

        run.set_tags({"retune.process": f"{socket.gethostname()} 1 0"})
        now = status()
        assert now.recipes[0].marks[-1] == "†"
        assert now.problems == ["mail: mail 2 lost its process"]
    assert now.recipes[0].margins[0] == (
        "loss ratio 0.5, may be at most 1 (evaluation.max_loss_ratio): "
        "50% of the way to the limit is used"
    )
    assert "**All is well**" in status().markdown()


def test_what_a_rejected_run_wants_is_to_do(home):
    """It is nothing that is out of order, and all is not well."""
    verdict = {
        "result": "FAILED",
        "gate": "validate",
        "setting": "validation.tolerances.roles_out_of_order",
    }
    with (
        pytest.raises(OSError, match="rejected"),
        start_run(Recipe.parse(SMALLEST), "mail 1", {}) as run,
    ):
        run.log_table([verdict], "verdicts.json")
        run.set_tags({OUTCOME: "rejected"})
        note_end("mail", "Rejected", "dataset rejected: 2 expectations", run.id)
        raise OSError("rejected")
    now = status()
    assert now.problems == []
    assert now.recipes[0].to_do == [
        "mail 1 was rejected (dataset rejected: 2 expectations): repair c/d, or change "
        "validation.tolerances.roles_out_of_order"
    ]
    assert now.markdown().startswith("**1 thing to do**, ")


@pytest.mark.parametrize(
    ("decision", "gate", "to_do"),
    [
        (
            "",
            "promote",
            ["nothing, if the reasons are right: what serves goes on; else mend the rows"],
        ),
        ("Rejected: rejected by ann: too long", "promote", []),
        ("Rejected: expected: approved by a person; seen: the approval expired", "promote", []),
    ],
)
def test_nobody_is_told_to_loosen_the_rule_of_promotion(home, decision, gate, to_do):
    verdict = {"result": "FAILED", "gate": gate, "setting": "promotion.margins"}
    with (
        pytest.raises(OSError, match="rejected"),
        start_run(Recipe.parse(SMALLEST), "mail 1", {}) as run,
    ):
        run.log_table([verdict], "verdicts.json")
        run.set_tags({OUTCOME: "Rejected", **({DECISION: decision} if decision else {})})
        raise OSError("rejected")
    (recipe,) = (one for one in status().recipes if one.recipe == "mail")
    assert len(recipe.to_do) == len(to_do)
    assert all(words in told for words, told in zip(to_do, recipe.to_do, strict=True))


def test_what_somebody_cancels_is_no_finished_run(home):
    note_end("mail", "Cancelled", "by hand", "")
    (recipe,) = (one for one in status().recipes if one.recipe == "mail")
    assert recipe.last_finished is None


def test_a_cancelled_run_has_a_mark_of_its_own(home):
    with (
        pytest.raises(KeyboardInterrupt),
        start_run(Recipe.parse(SMALLEST), "mail 1", {}) as run,
    ):
        run.set_tags({OUTCOME: "stopped"})
        raise KeyboardInterrupt
    now = status()
    assert now.recipes[0].marks == "⊘"
    text = now.markdown()
    assert "⊘ cancelled or interrupted (KILLED in MLflow)" in text
    assert "**All is well**" in text
    heads = next(line for line in text.splitlines() if line.startswith("| recipe | runs"))
    assert "estimates" not in heads  # there are none
    assert " UTC |" in text  # when the next one is due


def test_a_full_disk_is_told_and_sent(home, monkeypatch, capsys):
    monkeypatch.setattr("flows.status.FREE_BYTES", 1e18)
    with receiving() as (address, received), pytest.raises(SystemExit) as ended:
        app(["status", "--check", "--notify", address], standalone_mode=False)
    assert ended.value.code == 1
    (message,) = received
    assert "fills" in message.body
    assert "fills" in capsys.readouterr().out


def test_that_nothing_can_be_read_is_a_problem_too(home, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////dev/null/all.db")
    client.cache_clear()
    with pytest.raises(SystemExit) as ended:
        app(["status", "--check"], standalone_mode=False)
    assert ended.value.code == 1
    assert "cannot be read" in capsys.readouterr().out


def test_a_damaged_line_of_the_log_is_left_out(home):
    note_end("mail", "Promoted", "better")
    with (home / "home" / "ends.jsonl").open("a") as file:
        file.write('{"at": 7}\nnot json\n')
    assert [end.reason for end in ends()] == ["better"]


def test_margins_name_settings_that_there_are():
    known = flat(Recipe.parse(SMALLEST))
    assert set(LIMITS.values()) <= known.keys()
    params = {name: json.dumps(value, default=str) for name, value in known.items()}
    metrics = dict.fromkeys(LIMITS, 0.9) | {"merge/same_top_token": 0.9}
    rooms = [margin.room for margin in margins(metrics, params)]
    assert rooms == sorted(rooms)
    assert len(rooms) == len(LIMITS)
