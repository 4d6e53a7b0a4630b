"""What the flow does with a decision, and the registry's commands, in a real MLflow store."""

import json
import os
import re
import shutil
import sqlite3
import stat
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from expectations.promotion.decision import Decision
from expectations.verdicts import Judgement, Rejected
from flows import in_service, run_page
from flows.cli import app
from flows.endings import with_ending
from flows.promotion import Ending, settle, subject_of
from flows.summary import Summary
from retune import registry, serving, tracking
from retune.home import home
from retune.notes import COMPARED, NEXT_STEP, NOTE
from retune.recipe import Recipe
from retune.registry import approvals
from retune.saved_view import EVIDENCE as EVIDENCE_FILE
from retune.saved_view import WORKFLOW
from tests.candidates import EVIDENCE, PINS, candidate, registered, served
from tests.databases import furnish

RETUNE = Path(sys.executable).with_name("retune")


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    """A home folder of the test's own; the commands set variables, which do not outlive it."""
    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith(("PREFECT", "MLFLOW"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RETUNE_HOME", str(furnish(tmp_path / "home")))
    tracking.client.cache_clear()
    yield
    tracking.client.cache_clear()
    os.environ.clear()
    os.environ |= before


@pytest.fixture
def recipe():
    return make_recipe()


def make_recipe(**promotion) -> Recipe:
    values = {"name": "sums", "model": {"base": "a/b"}, "dataset": {"source": "c/d"}}
    return Recipe.parse(values | {"promotion": promotion})


def decision(outcome: str) -> Decision:
    judgement = Judgement("promote", "candidate", [], markdown="the evidence")
    return Decision(outcome, (f"it is {outcome}",), (), judgement)


def settled(recipe: Recipe, key: str, outcome: str) -> Ending:
    """Return how a run ends whose candidate `key` was decided about."""
    pins = PINS.model_copy(update={"champion": registry.champion(recipe.name)})
    with tracking.start_run(recipe, key, {}) as run:
        version = registry.register_candidate(run, recipe, PINS, candidate(key))
        return settle(run, version, decision(outcome), recipe, pins)


def test_a_good_candidate_is_promoted_and_the_same_again_is_equivalent(recipe):
    first = settled(recipe, "one", "promote")
    assert (first.name, first.serves) == ("Promoted", True)
    assert "sums/1 serves: it is promote" in first.reason
    again = settled(recipe, "one", "promote")
    assert (again.name, again.serves, again.entry) == ("Equivalent", True, None)
    better = settled(recipe, "two", "promote")
    assert (better.name, better.entry.former) == ("Promoted", 1)
    assert registry.version("sums", 2).tags["retune.decision"].startswith("Promoted: sums/2 serves")
    assert [entry.by for entry in registry.history("sums")] == ["retune"] * 2


@pytest.mark.parametrize("outcome", ["equivalent", "undecided"])
def test_what_is_not_shown_to_be_better_stays_a_challenger(recipe, outcome):
    ending = settled(recipe, "one", outcome)
    assert ending.name == outcome.capitalize()
    first, why = ending.reason.split("\n")
    assert "sums/1" in first
    assert "stays a challenger" in first
    assert why == f"- it is {outcome}"
    assert not ending.serves
    assert registry.serving("sums") is None
    assert registry.history("sums") == []


def test_the_page_of_a_run_says_who_serves_and_each_reason_in_a_line(recipe, monkeypatch):
    settled(recipe, "one", "promote")
    ending = settled(recipe, "two", "undecided")
    (run,) = [run for run in tracking.every_run() if run.info.run_name == "two"]
    of_run = tracking.Run(
        id=run.info.run_id, experiment_id=run.info.experiment_id, started=datetime.now(UTC)
    )
    of_run.set_tags(
        {NEXT_STEP: "Nothing: sums/1 serves.", COMPARED: "Against the champion: worse."}
    )
    of_run.log_texts({"evidence.html": "<p>"}, "promote")
    of_run.log_metrics({"train/seconds": 90.0, "train/gpu_hours": 0.025})
    of_run.set_tags({"retune.machine.gpu": "none"})
    monkeypatch.setattr("flows.run_page.mlflow_pages", lambda: "http://127.0.0.1:5000")
    page = run_page.page(ending.name, ending.reason, of_run)
    lines = page.split("\n\n")
    assert lines[0] == "# ? Undecided"
    assert "stays a challenger" in lines[1]
    assert lines[2] == "- it is undecided"
    assert lines[3].startswith("**sums/1** serves since ")
    assert lines[3].endswith("More: [in service](/v2/artifacts/key/in-service-sums).")
    assert lines[4] == "**What to do now** Nothing: sums/1 serves."
    assert lines[5] == "Against the champion: worse."
    place = (
        f"experiments/{of_run.experiment_id}/runs/{of_run.id}/artifacts/{EVIDENCE_FILE}?{WORKFLOW}"
    )
    assert lines[6] == f"[All of the evidence](http://127.0.0.1:5000/#/{place})"
    assert "Cost: trained for 1 min 30 s; " in page
    assert "GPU-hours" not in page
    asked = run_page.page("AwaitingApproval", "answer `retune approve 1` or *go*", of_run)
    assert "**answer `retune approve 1` or \\*go\\***" in asked


def test_evidence_is_about_a_version_and_says_who_serves_meanwhile(recipe):
    with tracking.start_run(recipe, "tuesday", {}) as run:
        version = registry.register_candidate(run, recipe, PINS, candidate("one"))
        first = subject_of(run.id, version)
    assert (first.sentence, first.is_first) == (
        "sums/1, made by the run “tuesday”; no version of sums serves yet.",
        True,
    )
    assert "retune compare" not in first.next_step("rejected", "auto")
    served(recipe, "two")
    assert re.search(
        r"sums/2 serves since \d{4}-\d\d-\d\d \d\d:\d\d UTC", subject_of(run.id, version).serving
    )
    assert "`retune compare sums@champion sums/1`" in subject_of(run.id, version).next_step(
        "rejected", "auto"
    )


def test_a_run_that_reused_the_training_is_the_one_to_approve():
    recipe = make_recipe(mode="approve")
    settled(recipe, "one", "equivalent")
    with tracking.start_run(recipe, "friday", {}) as run:
        version = registry.register_candidate(run, recipe, PINS, candidate("one"))
        assert subject_of(run.id, version).trained_by == ""  # it came to the same weights itself
        run.set_tags({"retune.train": "reused"})
        about = subject_of(run.id, version)
        assert (about.run, about.run_id, about.trained_by) == ("friday", run.id, "one")
        pins = PINS.model_copy(update={"champion": registry.champion(recipe.name)})
        ending = settle(run, version, decision("held"), recipe, pins)
    until = approvals.request_of(registry.version("sums", 1)).expires
    assert f"until {until:%Y-%m-%d %H:%M} UTC" in ending.reason
    assert "`retune approve sums/1`" in ending.reason
    noted = registry.version("sums", 1).tags["retune.decision"]
    assert noted == f"AwaitingApproval: {ending.reason}"


def test_a_candidate_like_one_that_was_rolled_back_says_so(recipe):
    served(recipe, "one", "two")
    opponent = registry.champion("sums").adapter
    with tracking.start_run(recipe, "three", {tracking.OPPONENT: opponent}) as run:
        third = registry.register_candidate(run, recipe, PINS, candidate("three"))
        pins = PINS.model_copy(update={"champion": registry.champion("sums")})
        settle(run, third, decision("equivalent"), recipe, pins)
    assert subject_of(run.id, third).alike == ""
    registry.rollback("sums", 1, "ann", "answers in rhyme")
    alike = subject_of(run.id, third).alike
    assert alike.startswith(
        "It was found to be equivalent to version 2, which was rolled back on 20"
    )
    assert alike.endswith("by ann: answers in rhyme.")
    files = candidate("two").files
    with tracking.start_run(recipe, "four", {}) as run:
        made = candidate("four")._replace(files=files)
        same = registry.register_candidate(run, recipe, PINS, made)
    assert "gives the same file as version 2" in subject_of(run.id, same).alike


def test_a_schedule_does_not_promote_what_was_rolled_back(recipe):
    for key in ("one", "two"):
        settled(recipe, key, "promote")
    registry.rollback("sums", None, "ann", "answers in rhyme")
    ending = settled(recipe, "two", "promote")
    assert (ending.name, ending.serves) == ("Barred", False)
    assert "answers in rhyme" in ending.reason
    assert registry.serving("sums").number == 1
    # One that is trained anew is another version.
    assert settled(recipe, "three", "promote").name == "Promoted"


def test_a_mode_of_never_registers_only():
    ending = settled(make_recipe(mode="never"), "one", "held")
    assert (ending.name, ending.serves) == ("Registered", False)
    assert registry.serving("sums") is None


def test_a_candidate_that_is_held_waits_and_is_promoted_once_it_is_approved():
    recipe = make_recipe(mode="approve")
    ending = settled(recipe, "one", "held")
    assert ending.name == "AwaitingApproval"
    assert "`retune approve sums/1`" in ending.reason
    assert settled(recipe, "one", "held").name == "AwaitingApproval"  # asked once
    approvals.answer(registry.version("sums", 1), "approve", "ann", "reads well")
    ending = settled(recipe, "one", "held")
    assert (ending.name, ending.entry.by, ending.entry.reason) == ("Promoted", "ann", "reads well")
    assert [entry.kind for entry in registry.history("sums")] == ["approve", "promote"]
    # Nobody is told to decide any more.
    assert (
        to_do() == "Nothing: sums/1 serves. It is the first, so that there is none to go back to."
    )


def to_do() -> str:
    """Return what the newest run says a person would do now."""
    (run,) = tracking.newest_runs(make_recipe(), "", 1)
    return run.data.tags[NEXT_STEP]


def test_a_candidate_that_a_person_rejects_is_rejected():
    recipe = make_recipe(mode="approve")
    settled(recipe, "one", "held")
    approvals.answer(registry.version("sums", 1), "reject", "ann", "too long")
    with pytest.raises(Rejected, match="rejected by ann: too long"):
        settled(recipe, "one", "held")
    assert "`retune promote sums 1` lets it serve all the same" in to_do()


def test_a_candidate_that_nobody_approves_in_time_is_rejected():
    recipe = make_recipe(mode="approve", approval_hours=1e-9)
    with pytest.raises(
        Rejected, match=r"approval expired: nobody answered .*promotion.approval_hours"
    ):
        settled(recipe, "one", "held")
    assert registry.serving("sums") is None


def test_an_approval_counts_against_the_champion_that_it_was_given_against():
    recipe = make_recipe(mode="approve")
    settled(recipe, "one", "held")
    approvals.answer(registry.version("sums", 1), "approve", "ann", "")
    served(recipe, "two")  # by hand, meanwhile
    assert settled(recipe, "one", "held").name == "AwaitingApproval"
    assert approvals.request_of(registry.version("sums", 1)).champion == 2


def test_a_run_that_waits_goes_on_in_its_mlflow_run(recipe):
    tags = {"prefect.flow_run_id": "f" * 8}
    with pytest.raises(tracking.Waiting), tracking.start_run(recipe, "x", tags, "plan") as run:
        raise tracking.Waiting("for somebody")
    stored = tracking.client().get_run(run.id)
    assert (stored.info.status, "retune.error" in stored.data.tags) == ("FINISHED", False)
    with tracking.start_run(recipe, "x", tags, "plan") as again:
        assert again.id == run.id
        assert tracking.client().get_run(run.id).info.status == "RUNNING"
    with tracking.start_run(recipe, "x", tags, "another") as other:
        assert other.id != run.id


# The states of Prefect.


def test_states_have_names_of_their_own():
    summary = Summary(
        recipe="r",
        run_id="",
        reused=0,
        stages=0,
        grids=[],
        ending="Undecided",
        reason="a\nb" * 3000,
    )
    state = with_ending(lambda: summary)
    assert (state.name, state.type) == ("Undecided", "COMPLETED")
    assert state.message.startswith("a.\nb")
    assert len(state.message) == 4000
    assert state.data == summary
    error = Rejected(Judgement("validate", "dataset", []))

    def rejecting() -> Summary:
        raise error

    state = with_ending(rejecting)
    assert (state.name, state.type, state.data) == ("Rejected", "FAILED", error)
    assert state.message.startswith("dataset rejected")


# What follows.


def test_mlflows_pages_of_model_and_version_say_what_became_of_it(recipe):
    settled(recipe, "one", "promote")
    settled(recipe, "two", "undecided")
    (entry,) = registry.history("sums")
    in_service.follow(entry, registry.serving("sums"), in_service.News(), {})
    of_model = tracking.client().get_registered_model("sums").description
    assert of_model.startswith("**sums/1** serves since ")
    first, second = (tracking.client().get_model_version("sums", str(n)) for n in (1, 2))
    place, verdict, *_ = first.description.split("\n\n")
    assert re.fullmatch(r"▶ \*\*Serves since \d{4}-\d\d-\d\d \d\d:\d\d UTC, by retune\*\*", place)
    assert verdict == "**Promoted: sums/1 serves: it is promote**"
    assert second.tags["retune.decision"].startswith("Undecided")
    assert tracking.client().get_run(second.run_id).data.tags["retune.outcome"] == "Undecided"
    assert second.description.startswith("**Undecided: Too little evidence on sums/2, which")
    registry.decided_as(registry.version("sums", 2), second.run_id, "Rejected", "by ann: *no*")
    text = tracking.client().get_model_version("sums", "2").description
    assert text.startswith("**Rejected: by ann: \\*no\\***\n\n")
    assert "Undecided" not in text
    # In one line, too, a number has its unit and stands apart from the next.
    assert "- loss: 1.5000 nats per token (base: 2.0000)" in text
    settled(recipe, "three", "promote")
    (*_, entry) = registry.history("sums")
    in_service.follow(entry, registry.serving("sums"), in_service.News(), {})
    text = tracking.client().get_model_version("sums", "1").description
    assert text.startswith("▶ **Previous**; sums/3 serves now\n\n**Promoted")
    entry = registry.rollback("sums", 1, "ann", "answers in rhyme")
    in_service.follow(entry, registry.serving("sums"), in_service.News(), {})
    settled(recipe, "three", "promote")  # the same weights again keep what is said of their place
    assert registry.version("sums", 3).aliases == ()  # what is barred is no challenger again
    text = tracking.client().get_model_version("sums", "3").description
    bar = "It is barred: `retune promote sums 3 --unbar` lets it serve again"
    place = f"▶ **Rolled back**: answers in rhyme. {bar}; sums/1 serves now"
    assert text.startswith(f"{place}\n\n**Barred")
    # So does MLflow's table of runs, in a column beside how they ended.
    of_runs = [tracking.client().get_run(one.run_id) for one in registry.versions("sums")]
    places = [one.data.tags.get("retune.place") for one in of_runs]
    assert places == ["serves", None, "rolled back"]
    assert "a/b on c/d" in text


def test_what_follows_is_told_and_fails_nothing(recipe, monkeypatch, tmp_path):
    served(recipe, "one")
    version = registry.serving("sums")
    (entry,) = registry.history("sums")
    monkeypatch.setenv("PATH", str(tmp_path))
    news = in_service.News(("http://169.254.169.254/",), "sums")
    ollama, webhook = in_service.follow(entry, version, news, EVIDENCE)
    assert "no program `ollama`" in ollama
    assert "link-local" in webhook
    assert (serving.folder_of("sums") / "Modelfile").is_file()


def test_ollama_is_given_the_modelfile(recipe, monkeypatch, tmp_path):
    """A program of its name, which is not here, that keeps what it is called with."""
    program = tmp_path / "ollama"
    program.write_text('#!/bin/sh\necho "$PWD" "$@" > "$0.said"\n/bin/cat "$4" >> "$0.said"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path))
    served(recipe, "one")
    (entry,) = registry.history("sums")
    news = in_service.News((), "support-mail")
    assert in_service.follow(entry, registry.serving("sums"), news, {}) == []
    said = (tmp_path / "ollama.said").read_text()
    assert "create support-mail -f" in said
    assert "FROM ./q4_k_m.gguf" in said
    assert ".versions/sums/1." in said.split()[0]


def test_the_page_of_what_serves_has_the_history(recipe):
    served(recipe, "one", "two")
    registry.rollback("sums", None, "ann <b>", "a | b")
    page = in_service.page(registry.serving("sums"), registry.history("sums"))
    assert page.startswith("**sums/1** serves since")
    rows = [line for line in page.splitlines() if re.match(r"\| \d", line)]
    assert [row.split("|")[3].strip() for row in rows] == ["rollback", "promote", "promote"]
    assert "<b>" not in page
    assert len(re.findall(r"(?<!\\)\|", rows[0])) == 8


def test_a_way_back_is_shown_where_there_is_one(recipe):
    served(recipe, "one")
    only = in_service.page(registry.serving("sums"), registry.history("sums"))
    assert "rollback" not in only
    assert "There is no version to go back to." in only
    served(recipe, "two")
    second = in_service.page(registry.serving("sums"), registry.history("sums"))
    assert "To go back to version 1: `retune rollback sums`." in second
    registry.rollback("sums", None, "ann", "answers in rhyme")
    first = in_service.page(registry.serving("sums"), registry.history("sums"))
    assert "Barred: 2; `retune promote sums 2 --unbar` lets it serve again." in first


# The commands.


def retune(*arguments: str):
    return CliRunner().invoke(app, [*arguments], catch_exceptions=True)


def test_a_rollback_by_hand_swaps_the_files_and_says_what_serves(recipe):
    served(recipe, "one", "two")
    for version in registry.versions("sums"):
        serving.serve(version, {1, 2})
    done = retune("rollback", "sums", "--reason", "answers in rhyme")
    assert done.exit_code == 0, done.output
    assert "sums/1 serves instead of version 2" in done.output
    assert "retune promote sums 2 --unbar" in done.output
    assert (serving.folder_of("sums") / "q4_k_m.gguf").read_text() == "one q4_k_m"
    entry = registry.history("sums")[-1]
    assert (entry.kind, entry.reason) == ("rollback", "answers in rhyme")
    refused = retune("promote", "sums", "2")
    assert isinstance(refused.exception, registry.Barred)
    assert retune("promote", "sums", "2", "--unbar").exit_code == 0
    assert (serving.folder_of("sums") / "q4_k_m.gguf").read_text() == "two q4_k_m"


def test_a_rollback_to_what_is_gone_says_so_and_changes_nothing(recipe):
    served(recipe, "one", "two")
    serving.serve(registry.serving("sums"), {2})
    shutil.rmtree(home() / "work" / "quantize")
    refused = retune("rollback", "sums")
    assert isinstance(refused.exception, serving.FilesGone)
    assert "the files of sums/1 are gone" in str(refused.exception)
    assert registry.serving("sums").number == 2
    done = retune("rollback", "sums", "--without-files")
    assert done.exit_code == 0
    assert registry.serving("sums").number == 1


def test_history_and_who_served(recipe):
    served(recipe, "one", "two")
    log = json.loads(retune("history", "sums", "--json").output)
    assert [entry["serving"] for entry in log] == [1, 2]
    assert "promote" in retune("history", "sums").output
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    of_day = json.loads(retune("who-served", today, "--json").output)
    assert [entry["serving"] for entry in of_day["sums"]] == [1, 2]
    now = (datetime.now(UTC) + timedelta(seconds=1)).isoformat()
    assert "sums/2 since" in retune("who-served", now, "sums").output
    assert "no version served then" in retune("who-served", "2001-01-01", "sums").output
    wrong = retune("who-served", "last week", "sums")
    assert "'last week' is no date" in str(wrong.exception)


def test_approve_promotes_what_waits(recipe):
    settled(make_recipe(mode="approve"), "one", "held")
    run = registry.version("sums", 1).run_id
    waits = "**It waits.**\n\n**What to do now** Decide until tomorrow.\n\nThe first run."
    tracking.client().set_tag(run, NOTE, waits)
    done = retune("approve", run, "--reason", "reads well")
    assert done.exit_code == 0, done.output
    assert "sums/1: approved by" in done.output
    assert "sums/1 serves" in done.output
    assert registry.serving("sums").number == 1
    assert (serving.folder_of("sums") / "q4_k_m.gguf").is_file()
    # The note of a run that has ended says so too.
    outcome, step, rest = tracking.client().get_run(run).data.tags[NOTE].split("\n\n")
    assert outcome.startswith("**Promoted: sums/1 serves; reason (")
    assert step == f"**What to do now** {to_do()}"
    assert "Nothing: sums/1 serves." in step
    assert rest == "The first run."
    again = retune("approve", "sums@challenger")
    assert "serves already" in str(again.exception)


def test_a_candidate_is_approved_by_its_name_though_its_run_is_gone(recipe):
    settled(make_recipe(mode="approve"), "one", "held")
    done = retune("approve", "sums/1")
    assert done.exit_code == 0, done.output
    assert registry.serving("sums").number == 1


def test_pages_say_what_serves_though_its_run_is_gone(recipe):
    served(recipe, "one", "two")
    tracking.client().delete_run(registry.version("sums", 1).run_id)
    with sqlite3.connect(home() / "mlflow.db") as database:  # as `mlflow gc` does
        gone = registry.version("sums", 1).run_id
        for table in ("tags", "params", "metrics", "latest_metrics", "runs"):
            database.execute(f"delete from {table} where run_uuid = ?", (gone,))
    entry = registry.rollback("sums", None, "ann", "answers in rhyme")
    assert in_service.follow(entry, registry.serving("sums"), in_service.News(), {}) == []
    text = tracking.client().get_model_version("sums", "2").description
    assert text.startswith("▶ **Rolled back**: answers in rhyme.")


def test_reject_keeps_it_a_challenger(recipe):
    settled(make_recipe(mode="approve"), "one", "held")
    done = retune("reject", "sums@challenger", "--reason", "too long")
    assert done.exit_code == 0, done.output
    assert registry.serving("sums") is None
    assert registry.history("sums")[-1].reason == "too long"
    run = registry.version("sums", 1).run_id
    assert tracking.client().get_run(run).data.tags[NOTE].startswith("**Rejected: rejected by ")


def test_a_run_without_a_candidate_is_not_approved(recipe):
    registered(recipe, "one")
    with tracking.start_run(recipe, "broken", {}):
        pass
    refused = retune("approve", "broken")
    assert "made no candidate" in str(refused.exception)


@pytest.mark.proof
def test_a_rollback_takes_less_than_a_minute(recipe):
    """In a process of its own, as a person waits for it, with the exit codes of the command line."""
    served(recipe, "one", "two")
    started = time.monotonic()
    done = subprocess.run([RETUNE, "rollback", "sums"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - started < 60
    nowhere = subprocess.run([RETUNE, "rollback", "sums"], capture_output=True, text=True)
    assert nowhere.returncode == 2
    assert "Traceback" not in nowhere.stderr
    assert "not barred served before" in nowhere.stderr
