"""Versions, the promotion log and its lock, in a real MLflow store and on a real server."""

import itertools
import json
import os
import re
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import pytest

from retune import registry, tracking
from retune.original import Original
from retune.processes import this_process
from retune.recipe import Recipe, RecipeError
from retune.records import Champion, Selection
from retune.registry import approvals, lock
from retune.registry.promotions import SETTLED, changing
from tests.candidates import EVIDENCE, PINS, candidate, made, registered, served

NUMBERS = itertools.count(1)
# MLflow on a file, and as a server.
CLIENTS = ["sqlite", pytest.param("server", marks=pytest.mark.slow)]


@pytest.fixture
def recipe():
    """A recipe of its own for each test, since all share one server."""
    values = {"name": f"p{next(NUMBERS)}", "model": {"base": "a/b"}, "dataset": {"source": "c/d"}}
    return Recipe.parse(values)


def aliases(recipe: Recipe) -> dict[str, int]:
    model = tracking.client().get_registered_model(recipe.name)
    return {alias: int(number) for alias, number in model.aliases.items()}


@pytest.mark.parametrize("client", CLIENTS, indirect=True)
def test_every_candidate_is_a_version_that_tells_what_made_it(client, recipe):
    version = registered(recipe, "one", methods=("q4_k_m", "q8_0"))
    assert (version.number, version.aliases) == (1, ("challenger",))
    parts = candidate("one")
    assert version.tags["retune.adapter"] == parts.adapter.step.fingerprint
    assert version.tags["retune.evaluate"] == parts.scores.step.fingerprint
    assert version.tags["retune.pin.model"] == PINS.model
    assert version.tags["retune.dataset.digest"] == parts.rows.step.fingerprint
    assert version.tags["retune.measure.loss/tuned"] == "1.5000"
    file = json.loads(version.tags["retune.file.q8_0"])
    assert (file["folder"].partition("/")[0], file["file"]) == ("quantize", "q8_0.gguf")
    stored = client.get_model_version(recipe.name, "1")
    assert stored.source == f"runs:/{version.run_id}/train"
    assert "- loss: 1.5000 nats per token (base: 2.0000)" in stored.description
    assert "q8" in stored.description
    assert registry.champion(recipe.name) is None  # nobody has decided


@pytest.mark.parametrize("client", CLIENTS, indirect=True)
def test_mlflow_has_a_model_of_the_candidate_with_its_metrics_and_dataset(client, recipe):
    version = registered(recipe, "one")
    run = client.get_run(version.run_id)
    (output,) = run.outputs.model_outputs
    model = client.get_logged_model(output.model_id)
    assert (model.status, model.source_run_id) == ("READY", version.run_id)
    assert model.params["retune.adapter"] == version.tags["retune.adapter"]
    metrics = {metric.key: metric for metric in model.metrics}
    assert metrics["evaluate/loss/tuned"].value == 1.5
    assert metrics["evaluate/loss/tuned"].dataset_name == "c/d"
    assert metrics["evaluate/loss/tuned"].dataset_digest == version.tags["retune.dataset.digest"]
    (leads_to,) = json.loads(model.tags["mlflow.modelVersions"])
    assert (leads_to["name"], int(leads_to["version"])) == (recipe.name, version.number)
    assert run.data.tags["retune.registered"] == str(version)


def test_the_same_weights_keep_their_version(client, recipe):
    first = registered(recipe, "one")
    second = registered(recipe, "two")
    # The same bytes by other ways: reused, evaluated by another suite, trained anew.
    again = registered(recipe, "one", loss=1.25, methods=("q8_0",))
    copied = registered(recipe, "three", weights="one")
    assert [first.number, second.number, again.number, copied.number] == [1, 2, 1, 1]
    assert again.run_id == first.run_id
    assert "retune.file.q4_k_m" not in again.tags
    assert again.tags["retune.measure.loss/tuned"] == "1.2500"
    assert again.aliases == ("challenger",)


@pytest.mark.parametrize("client", CLIENTS, indirect=True)
def test_a_run_that_goes_on_registers_its_candidate_again(client, recipe):
    """It waited for a person, or lost its process after it had registered."""
    with tracking.start_run(recipe, "a run", {}) as run:
        for _ in range(2):
            run.log_base_model("a/b", "b" * 40, "b" * 40)
            assert registry.register_candidate(run, recipe, PINS, candidate("one")).number == 1
    stored = client.get_run(run.id)
    assert len(stored.outputs.model_outputs) == 1
    assert len(stored.inputs.model_inputs) == 1


def test_the_weights_it_is_put_on_are_part_of_a_version(client, recipe):
    assert registered(recipe, "one").number == 1
    on_16bit = made("select", "one", Selection, onto="16bit")
    version = registered(recipe, "one", selection=on_16bit)
    assert version.number == 2
    registry.promote(recipe.name, 2, "test", "", {}, None)
    assert registry.champion(recipe.name) == Champion(
        version=2,
        run_id=version.run_id,
        adapter=version.tags["retune.adapter"],
        base="a/b",
        model_pin=PINS.model,
        original=Original(name="a/b", revision=PINS.model, setting="model.base"),
        load_in_4bit=recipe.model.load_in_4bit,
    )


@pytest.mark.parametrize("client", CLIENTS, indirect=True)
def test_a_promotion_moves_the_aliases_and_is_logged(client, recipe):
    before = datetime.now(UTC)
    served(recipe, "one", "two")
    assert aliases(recipe) == {"champion": 2, "previous": 1, "challenger": 2}
    first, second = registry.history(recipe.name)
    assert (first.number, first.kind, first.version, first.former) == (1, "promote", 1, None)
    assert (second.serving, second.former, second.by, second.reason) == (2, 1, "test", "two")
    assert re.fullmatch("[0-9a-f]{16}", second.evidence)
    assert before <= first.at <= second.at <= datetime.now(UTC)
    assert second.run_id == registry.version(recipe.name, 2).run_id


def test_a_rollback_goes_back_and_bars_what_it_leaves(client, recipe):
    served(recipe, "one", "two", "three")
    entry = registry.rollback(recipe.name, None, "ann", "answers in rhyme")
    assert (entry.kind, entry.version, entry.former) == ("rollback", 2, 3)
    assert aliases(recipe) == {"champion": 2, "previous": 1}  # what nobody wants is no challenger
    assert registry.version(recipe.name, 3).barred == "answers in rhyme"
    with pytest.raises(registry.Barred, match=r"p\d+/3 is barred: answers in rhyme.*--unbar"):
        registry.promote(recipe.name, 3, "schedule", "", EVIDENCE, 2)
    with pytest.raises(registry.Barred):
        registry.rollback(recipe.name, 3, "ann", "")
    registry.promote(recipe.name, 3, "ann", "mended", {}, 2, unbar=True)
    assert registry.version(recipe.name, 3).barred is None
    assert aliases(recipe) == {"champion": 3, "previous": 2}


def test_rollbacks_go_back_one_by_one_to_the_first(client, recipe):
    served(recipe, "one", "two", "three")
    registry.rollback(recipe.name, None, "ann", "")
    registry.rollback(recipe.name, None, "ann", "")
    assert aliases(recipe) == {"champion": 1}
    with pytest.raises(registry.RegistryError, match="not barred served before"):
        registry.rollback(recipe.name, None, "ann", "")


def test_a_rollback_may_name_its_version(client, recipe):
    served(recipe, "one", "two", "three")
    registry.rollback(recipe.name, 1, "ann", "")
    assert aliases(recipe)["champion"] == 1
    assert aliases(recipe)["previous"] == 2
    with pytest.raises(registry.RegistryError, match="serves already"):
        registry.rollback(recipe.name, 1, "ann", "")
    with pytest.raises(registry.RegistryError, match=r"no version 9 \(there: 1, 2, 3\)"):
        registry.rollback(recipe.name, 9, "ann", "")


def test_evidence_against_another_champion_promotes_nothing(client, recipe):
    served(recipe, "one", "two")
    registered(recipe, "three")
    for expected in (None, 1):
        with pytest.raises(registry.StaleEvidence, match=r"by now p\d+/2 serves"):
            registry.promote(recipe.name, 3, "test", "", EVIDENCE, expected)
    assert len(registry.history(recipe.name)) == 2
    assert aliases(recipe)["champion"] == 2


def test_approvals_are_in_the_log_and_change_nothing(client, recipe):
    served(recipe, "one")
    registered(recipe, "two")
    with changing(recipe.name) as model:
        version = registry.version(recipe.name, 2)
        entry = model.add("reject", version, model.serving, "ann", "too long", EVIDENCE)
    assert (entry.kind, entry.version, entry.serving, entry.former) == ("reject", 2, 1, 1)
    assert aliases(recipe)["champion"] == 1


def test_who_served_is_known_for_any_time(client, recipe):
    assert registry.who_served([], datetime.now(UTC)) is None
    served(recipe, "one", "two")
    registry.rollback(recipe.name, None, "ann", "")
    log = registry.history(recipe.name)
    assert registry.who_served(log, log[0].at - timedelta(seconds=1)) is None
    for entry in log:
        assert registry.who_served(log, entry.at) == entry
    assert registry.who_served(log, datetime.now(UTC) + timedelta(days=1)).serving == 1


def test_what_a_dead_process_began_is_ended_by_the_next(client, recipe):
    """Killed between the log and the aliases: the log is the truth."""
    served(recipe, "one", "two")
    registered(recipe, "three")
    client.set_registered_model_alias(recipe.name, "champion", "1")
    client.set_registered_model_tag(recipe.name, SETTLED, "1")
    client.delete_registered_model_alias(recipe.name, "previous")
    registry.promote(recipe.name, 3, "test", "", EVIDENCE, 2)
    assert aliases(recipe) == {"champion": 3, "previous": 2, "challenger": 3}
    assert [entry.serving for entry in registry.history(recipe.name)] == [1, 2, 3]


def test_an_alias_that_was_moved_in_mlflow_comes_into_the_log(client, recipe):
    """By hand, or by an earlier retune, which kept no log."""
    registered(recipe, "one")
    registered(recipe, "two")
    client.set_registered_model_alias(recipe.name, "champion", "1")
    registry.promote(recipe.name, 2, "test", "", {}, 1)
    first, second = registry.history(recipe.name)
    assert (first.by, first.serving, second.former) == ("MLflow", 1, 1)
    assert aliases(recipe)["previous"] == 1


@pytest.mark.parametrize("change", ["removed", "edited"])
def test_a_log_that_was_changed_is_refused(client, recipe, change):
    served(recipe, "one", "two")
    if change == "removed":
        client.delete_registered_model_tag(recipe.name, "retune.promotion.000001")
    else:
        client.set_registered_model_tag(recipe.name, "retune.promotion.000001", "{}")
    with pytest.raises(registry.RegistryError, match=r"retune\.promotion\.000001"):
        registry.history(recipe.name)
    registered(recipe, "three")
    with pytest.raises(registry.RegistryError, match=r"retune\.promotion\.000001"):
        registry.promote(recipe.name, 3, "test", "", EVIDENCE, 2)


def test_a_version_of_an_earlier_retune_serves_and_is_no_champion_to_compare_with(client, recipe):
    client.create_registered_model(recipe.name)
    with tracking.start_run(recipe, "old", {}) as run:
        client.create_model_version(recipe.name, f"runs:/{run.id}/publish", run.id)
    client.set_registered_model_alias(recipe.name, "champion", "1")
    assert registry.champion(recipe.name) is None
    assert registry.find(f"{recipe.name}@champion") == run.id


# Approvals.


def asked(
    recipe: Recipe, champion: int | None = None, hours: float = 1
) -> registry.RegisteredVersion:
    """Return a new candidate that waits for an approval."""
    version = registered(recipe, f"asked {next(NUMBERS)}")
    request = approvals.Request(
        run_id=version.run_id,
        champion=champion,
        evidence="e" * 16,
        expires=datetime.now(UTC) + timedelta(hours=hours),
    )
    assert approvals.ask(version, request) == request
    return version


@pytest.mark.parametrize("client", CLIENTS, indirect=True)
@pytest.mark.parametrize("verb", ["approve", "reject"])
def test_an_answer_is_kept_with_the_version_and_in_the_log(client, recipe, verb):
    version = asked(recipe)
    said, request, entry = approvals.answer(version, verb, "ann", "as we agreed")
    assert (said.verb, said.by, said.reason) == (verb, "ann", "as we agreed")
    assert (entry.kind, entry.version, entry.serving) == (verb, 1, None)
    assert request.run_id == version.run_id
    now = registry.version(recipe.name, 1)
    assert approvals.answer_of(now, None) == said
    assert approvals.answer_of(now, 7) is None  # compared with another champion
    with pytest.raises(registry.RegistryError, match="by ann "):
        approvals.answer(now, "approve", "bob", "")


def test_an_approval_of_stale_evidence_is_refused(client, recipe):
    served(recipe, "one")
    version = asked(recipe, champion=1)
    served(recipe, "two")
    with pytest.raises(registry.StaleEvidence, match=r"by now p\d+/3 serves"):
        approvals.answer(version, "approve", "ann", "")
    assert len(registry.history(recipe.name)) == 2


def test_who_does_not_wait_is_not_approved(client, recipe):
    served(recipe, "one")
    version = registered(recipe, "two")
    with pytest.raises(registry.RegistryError, match="waits for no approval"):
        approvals.answer(version, "approve", "ann", "")
    late = asked(recipe, champion=1, hours=-1)
    with pytest.raises(registry.RegistryError, match="counts as rejected"):
        approvals.answer(late, "approve", "ann", "")


def test_a_candidate_that_is_asked_about_again_waits_no_longer(client, recipe):
    version = asked(recipe)
    request = approvals.request_of(registry.version(recipe.name, version.number))
    later = request.model_copy(update={"expires": request.expires + timedelta(days=1)})
    again = approvals.ask(registry.version(recipe.name, version.number), later)
    assert again.expires == request.expires


# Names.


@pytest.mark.parametrize("client", CLIENTS, indirect=True)
def test_a_run_is_found_by_all_its_names(client, recipe):
    served(recipe, "one", "two")
    one, two = registry.versions(recipe.name)
    names = {
        one.run_id: [one.run_id, one.run_id[:12], f"{recipe.name} one", f"{recipe.name}/1"],
        two.run_id: ["latest", *(f"{recipe.name}@{n}" for n in ("latest", "champion"))],
    }
    names[one.run_id].append(f"{recipe.name}@previous")
    for run_id, references in names.items():
        assert {reference: registry.find(reference) for reference in references} == dict.fromkeys(
            references, run_id
        )


def test_children_are_never_meant(client, recipe):
    version = registered(recipe, "one")
    with tracking.start_run(recipe, "parent", {}) as run:
        run.log_child(candidate("one").files[0], "q4_k_m")
    assert registry.find(f"{recipe.name}@latest") == run.id != version.run_id
    with pytest.raises(registry.RegistryError, match="no run 'q4_k_m x'"):
        registry.find("q4_k_m x")


def test_what_does_not_exist_is_said_in_a_sentence(client, recipe):
    registered(recipe, "one")
    for reference, words in {
        "nobody/1": "no registered model 'nobody'",
        "nobody@champion": "no registered model 'nobody'",
        f"{recipe.name}/7": r"has no version 7 \(there: 1\)",
        f"{recipe.name}@champion": r"has no alias 'champion' \(there: challenger\)",
        "nobody@latest": "no run of the recipe 'nobody' in MLflow",
        "a'b": 'no run "a\'b" in MLflow',
        "a'b\"c": "give its id",
        "0123456789abcdef": "no run '0123456789abcdef'",
    }.items():
        with pytest.raises(registry.RegistryError, match=words):
            registry.find(reference)


def test_looking_makes_no_store(tmp_path, monkeypatch):
    monkeypatch.setenv("RETUNE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert registry.champion("sums") is None
    assert registry.versions("sums") == []
    with pytest.raises(registry.RegistryError, match="no run in MLflow"):
        registry.find("latest")
    with pytest.raises(registry.RegistryError, match=r"no registered model 'sums' \(there: none\)"):
        registry.history("sums")
    assert not (tmp_path / "home").exists()


# The lock.

PROMOTING = """
import sys
from retune import registry
name, number, tries = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
for _ in range(tries):
    while True:
        serving = registry.champion(name)
        if serving and serving.version == number:
            break
        try:
            registry.promote(name, number, f"process {number}", "", {}, serving and serving.version)
            break
        except registry.StaleEvidence:
            pass
"""


@pytest.mark.proof
@pytest.mark.parametrize("client", CLIENTS, indirect=True)
@pytest.mark.parametrize("homes", ["one home", "a home each"])
def test_promotions_at_once_leave_a_whole_log(client, recipe, tmp_path, homes):
    """With a home each, nothing but MLflow's server is between the processes, as between hosts."""
    versions = [registered(recipe, f"v{number}") for number in range(5)]
    environment = os.environ | {"MLFLOW_TRACKING_URI": tracking.tracking_uri()}
    processes = []
    for version in versions:
        if homes == "a home each":
            environment = environment | {"RETUNE_HOME": str(tmp_path / str(version))}
        arguments = [recipe.name, str(version.number), "3"]
        command = [sys.executable, "-c", PROMOTING, *arguments]
        processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE))
    for process in processes:
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said.decode()
    log = registry.history(recipe.name)
    assert [entry.number for entry in log] == list(range(1, len(log) + 1))
    assert [entry.former for entry in log] == [None, *(entry.serving for entry in log[:-1])]
    assert {entry.version for entry in log} == {version.number for version in versions}
    assert all(entry.by == f"process {entry.version}" for entry in log)
    assert aliases(recipe)["champion"] == log[-1].serving
    assert aliases(recipe)["previous"] == log[-1].former
    locks = [m.name for m in client.search_registered_models() if m.name.startswith(recipe.name)]
    assert locks == [recipe.name]


def held_by(client, recipe: Recipe, holder: str) -> str:
    name = f"{recipe.name} (lock)"
    tags = {lock.TOKEN: "f" * 32, lock.HOLDER: holder, lock.TAKEN: "2026-01-01T00:00:00Z"}
    client.create_registered_model(name, tags=tags)
    return name


def test_the_lock_of_a_process_that_died_here_is_broken_at_once(client, recipe):
    dead = subprocess.run(
        [sys.executable, "-c", "from retune.processes import *; print(this_process())"],
        capture_output=True,
        text=True,
        check=True,
    )
    registered(recipe, "one")
    held_by(client, recipe, dead.stdout.strip())
    started = time.monotonic()
    registry.promote(recipe.name, 1, "test", "", {}, None)
    assert time.monotonic() - started < lock.LEASE / 4


def test_the_lock_of_another_host_is_broken_when_its_lease_is_over(client, recipe, monkeypatch):
    monkeypatch.setattr(lock, "LEASE", 1.0)
    registered(recipe, "one")
    held_by(client, recipe, "elsewhere 12 1700000000")
    started = time.monotonic()
    registry.promote(recipe.name, 1, "test", "", {}, None)
    assert time.monotonic() - started >= 1.0


@pytest.mark.parametrize(
    "reference", ["x' OR name LIKE '%", 'x" OR 1=1 --', "x'\" OR 1=1", "sums@x' OR '1'='1", "%"]
)
def test_a_name_cannot_change_the_question(client, recipe, reference):
    """Nobody's run is found by a name that is a question of its own."""
    registered(recipe, "one")
    with pytest.raises(registry.RegistryError):
        registry.find(reference)


def test_a_lock_that_is_held_is_waited_for_and_named(client, recipe, monkeypatch):
    monkeypatch.setattr(lock, "PATIENCE", 0.5)
    registered(recipe, "one")
    name = held_by(client, recipe, this_process())
    with pytest.raises(registry.RegistryError, match=re.escape(this_process())):
        registry.promote(recipe.name, 1, "test", "", {}, None)
    assert client.get_registered_model(name).tags[lock.TOKEN] == "f" * 32
    assert registry.history(recipe.name) == []


def test_a_holder_that_was_too_slow_writes_nothing(client, recipe, monkeypatch):
    monkeypatch.setattr(lock, "HOLD", 0.0)
    registered(recipe, "one")
    with pytest.raises(registry.RegistryError, match="nothing more was changed"):
        registry.promote(recipe.name, 1, "test", "", {}, None)
    assert registry.history(recipe.name) == []
    monkeypatch.undo()


def test_a_recipes_name_is_never_that_of_a_lock():
    with pytest.raises(RecipeError, match="name"):
        Recipe.parse({"name": "p (lock)", "model": {"base": "b"}, "dataset": {"source": "s"}})
