"""Approvals that nobody gave in time, where no watchdog is at work: MLflow's record is put right."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.expiry import note_expired
from flows.status import status
from retune import registry
from retune.notes import NEXT_STEP, NOTE
from retune.registry.approvals import REQUEST, answer, request_of
from retune.retention import WAITING
from retune.tracking import DECISION, client
from tests.databases import furnish_mlflow, working_in
from tests.flows.test_promotion import make_recipe, settled


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    with working_in(monkeypatch, furnish_mlflow(tmp_path / "home")) as home:
        yield home


def waiting(key: str, hours: float) -> registry.RegisteredVersion:
    """Return a candidate that waits for an approval, for so many hours from now."""
    settled(make_recipe(mode="approve"), key, "held")
    version = registry.versions("sums")[-1]
    until = datetime.now(UTC) + timedelta(hours=hours)
    request = request_of(version).model_copy(update={"expires": until})
    client().set_model_version_tag("sums", str(version.number), REQUEST, request.model_dump_json())
    return version


def decisions(version: registry.RegisteredVersion) -> set[str]:
    """Return what version and run say became of it."""
    of_run = client().get_run(version.run_id).data.tags[DECISION]
    return {of_run, registry.version("sums", version.number).tags[DECISION]}


def test_the_next_run_of_the_recipe_notes_it_once():
    late, soon = waiting("late", -1), waiting("soon", 1)
    assert [version.number for version in note_expired("sums")] == [late.number]
    (decision,) = decisions(late)
    assert decision.startswith(
        "Rejected: expected: approved by a person; seen: the approval expired"
    )
    tags = client().get_run(late.run_id).data.tags
    assert tags[NOTE].startswith("**Rejected: expected: approved by a person")
    assert tags[NEXT_STEP] in tags[NOTE]
    assert f"`retune promote sums {late.number}` lets it serve all the same" in tags[NEXT_STEP]
    assert all(text.startswith(WAITING) for text in decisions(soon))
    assert note_expired("sums") == []
    assert note_expired("nothing") == []


def test_the_next_status_notes_it_too(home):
    version = waiting("late", -1)
    (recipe,) = (one for one in status().recipes if one.recipe == "sums")
    assert recipe.last_ending == WAITING
    done = CliRunner().invoke(app, ["status", "--json"])
    assert done.exit_code == 0, done.output
    (recipe,) = (one for one in json.loads(done.output)["recipes"] if one["recipe"] == "sums")
    assert (recipe["marks"], recipe["last_ending"]) == ("✗", "Rejected")
    assert all(text.startswith("Rejected") for text in decisions(version))


def test_what_was_answered_in_time_stays_answered():
    version = waiting("late", 1)
    answer(version, "approve", "ann", "reads well")
    version = registry.version("sums", version.number)
    request = request_of(version).model_copy(update={"expires": datetime.now(UTC)})
    client().set_model_version_tag("sums", str(version.number), REQUEST, request.model_dump_json())
    assert note_expired("sums") == []
    assert settled(make_recipe(mode="approve"), "late", "held").name == "Promoted"


@pytest.mark.parametrize(("verb", "ending"), [("approve", "Promoted"), ("reject", "Rejected")])
def test_what_is_decided_by_a_command_waits_no_more(verb, ending):
    version = waiting("soon", 1)
    done = CliRunner().invoke(app, [verb, "sums@challenger"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert all(text.startswith(f"{ending}: ") for text in decisions(version))


def test_a_run_that_somebody_deleted_ends_no_other_one(caplog):
    version = waiting("late", -1)
    client().delete_run(version.run_id)
    assert [found.number for found in note_expired("sums")] == [version.number]
    assert "was not found" in caplog.text
    decision = registry.version("sums", version.number).tags[DECISION]
    assert decision.startswith("Rejected: ")
    assert note_expired("sums") == []


def test_what_a_person_promoted_by_hand_has_not_expired():
    version = waiting("late", -1)
    registry.promote("sums", version.number, "ann", "it is good", {}, None)
    assert note_expired("sums") == []
    assert not registry.version("sums", version.number).tags[DECISION].startswith("Rejected")
