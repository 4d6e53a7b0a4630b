"""What runs say of themselves in MLflow: names, notes, the saved view, files as models."""

import base64
import json
import time
import zlib
from urllib.parse import parse_qs, urlsplit

import pytest

from retune import saved_view, tracking
from retune.building import building
from retune.logged_files import log_file
from retune.notes import (
    CHANGED_SINCE,
    COMPARED,
    NEXT_STEP,
    SettingChange,
    before,
    beside_the_evidence,
    changed,
    changes,
    differing_settings,
    has_evidence,
    note,
    settings,
    without_gpu,
)
from retune.outputs import Step
from retune.pages import mlflow_pages
from retune.recipe import Recipe
from retune.records import Champion, Gguf
from retune.saved_view import WORKFLOW
from retune.tracking import start_run
from tests.candidates import PINS
from tests.databases import furnish_mlflow, working_in

VALUES = {"name": "mail", "model": {"base": "a/b"}, "dataset": {"source": "c/d"}}


def recipe(**training) -> Recipe:
    return Recipe.parse(VALUES | {"training": training})


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    home = furnish_mlflow(tmp_path_factory.mktemp("home"))
    with pytest.MonkeyPatch.context() as patch, working_in(patch, home):
        yield tracking.client()


def test_a_name_tells_the_two_settings_that_make_another_model_first():
    old, new = settings(recipe()), settings(recipe(learning_rate=1e-4, r=32, seed=3))
    new["evaluation.batch_size"] = "1"
    new["tracking.experiment"] = '"elsewhere"'
    found = changes(old, new)
    assert [one.setting for one in found[:2]] == ["training.learning_rate", "training.r"]
    assert "tracking.experiment" not in {one.setting for one in found}
    assert changed(found, "", is_first=False) == "learning_rate 0.0001, r 32 and 2 more settings"


@pytest.mark.parametrize(
    ("differing", "rows", "is_first", "words"),
    [
        ([], "", True, "first run"),
        ([], "", False, "same again"),
        ([], "data +140 rows", False, "data +140 rows"),
        (
            [SettingChange("training.r", "16", "8")],
            "data 3 rows edited",
            False,
            "r 8; data 3 rows edited",
        ),
        ([SettingChange("validation.keep", "x", "null")], "", False, "keep unset"),
    ],
)
def test_a_name_tells_what_changed(differing, rows, is_first, words):
    assert changed(differing, rows, is_first) == words


def gguf(method: str, sha256: str, divergence: float) -> Gguf:
    with building(Step(stage="quantize", key={"method": method, "sha": sha256})) as build:
        (build.path / f"m-{method}.gguf").write_bytes(b"GGUF")
        return build.finish(
            Gguf,
            metrics={"bytes": 4e9, "kl_divergence": divergence},
            method=method,
            file=f"m-{method}.gguf",
            bytes=4_000_000_000,
            sha256=sha256,
        )


def test_the_note_holds_the_verdict_the_change_the_numbers_and_the_files(store):
    with start_run(recipe(), "old [run](x)", {}) as old:
        old.log_metrics({"evaluate/loss/tuned": 1.5, "evaluate/loss/base": 2.0})
    with start_run(recipe(learning_rate=1e-4), "new", {}) as new:
        new.log_metrics({"evaluate/loss/tuned": 1.25, "evaluate/loss/base": 2.0})
        new.log_child(gguf("q4_k_m", "1" * 64, 0.02), "q4_k_m")
        new.log_table([{"a": 1}], "one.json")
        new.log_table([{"b": 2}], "two.json")
    earlier = before(new.id, new.experiment_id, "mail")
    assert earlier.info.run_id == old.id
    assert before(old.id, old.experiment_id, "another") is None
    text = note(new.id, "Rejected: `5%` | of <b>", earlier, {"In Prefect": "http://127.0.0.1:1/r"})
    assert text.startswith("**Rejected: ")
    assert "<b>" not in text
    # In the first lines, which are all that is seen at once.
    assert "loss **1.2500** (base 2.0000, run before 1.5000)" in text.splitlines()[2]
    assert f"](#/experiments/{old.experiment_id}/runs/{old.id}?{WORKFLOW})" in text
    assert "- `training.learning_rate`: `0.0003` → `0.0001`" in text
    assert (
        "| loss | 1.2500 nats per token | 2.0000 nats per token | 1.5000 nats per token |" in text
    )
    assert "| q4_k_m |  | 4.00 GB | 0.02 |  |  |" in text
    assert "[In Prefect](http://127.0.0.1:1/r)" in text
    assert f"`retune compare {old.id} {new.id}`" in text
    assert "`one.json`, `two.json`" in text  # one table does not hide another


def test_the_note_has_the_champions_numbers_and_what_to_do_now(store):
    ids = []
    for title, loss in (("champion", 1.0), ("poisoned · mail 11-26 09:00", 3.0), ("new", 0.5)):
        with start_run(recipe(), title, {}) as run:
            run.log_metrics({"evaluate/loss/tuned": loss})
            ids.append(run.id)
    pins = PINS.model_copy(update={"champion": serving(ids[0])})
    run.log_texts({"pins.json": pins.model_dump_json()}, "provenance")
    since = f"champion/{ids[0]}"
    run.set_tags({NEXT_STEP: "Nothing: `mail/1` serves.", CHANGED_SINCE: since})
    text = note(run.id, "Undecided", before(run.id, run.experiment_id, "mail"), {})
    assert "|  | this run | base | champion | run before |" in text
    cells = ("0.5000", "", "1.0000", "3.0000")
    units = [f"{cell} nats per token" if cell else "" for cell in cells]
    assert f"| loss | {' | '.join(units)} |" in text
    assert "**What to do now** Nothing: `mail/1` serves." in text
    assert "Changed since the champion, [champion](" in text
    store.delete_run(ids[0])
    assert "| champion |" in note(run.id, "Undecided", None, {})  # it is kept for a while
    gone = pins.model_copy(update={"champion": serving("0" * 32)})
    run.log_texts({"pins.json": gone.model_dump_json()}, "provenance")
    assert "| champion |" not in note(run.id, "Undecided", None, {})


def serving(run_id: str) -> Champion:
    return Champion(
        version=1,
        run_id=run_id,
        adapter="a" * 16,
        base="b",
        model_pin="b" * 40,
        load_in_4bit=False,
    )


def test_the_run_before_is_one_that_began_before(store):
    ids = []
    for title in ("first", "waits", "later"):
        with start_run(recipe(), title, {}) as run:
            ids.append(run.id)
        time.sleep(0.002)  # MLflow counts milliseconds
    earlier = before(ids[1], run.experiment_id, "mail")
    assert earlier.info.run_id == ids[0]  # not `later`, of which `waits` would be the run before


def test_a_name_has_no_folders_in_it():
    change = SettingChange("model.base", "a/b", "/srv/models/eyes/base")
    assert changed([change], "", False) == "base base"
    assert SettingChange("model.base", "a", "org/model").brief() == "base org/model"


def test_the_note_says_why_no_file_ships_and_names_whose_settings_differ(store):
    with start_run(recipe(), "champion", {}) as champion:
        champion.log_metrics({"evaluate/loss/tuned": 1.0})
    with start_run(recipe(learning_rate=1e-4), "new", {}) as run:
        run.log_metrics({"evaluate/loss/tuned": 0.5, "train/gpu_hours": 0.1})
        run.log_child(gguf("q8_0", "3" * 64, 0.02), "q8_0")
        row = {
            "method": "q8_0",
            "ships": False,
            "reason": "expected: ratio at most 1.02; seen: 1.085",
        }
        run.log_texts({"gguf_files.json": json.dumps([row])}, "quantize")
        pins = PINS.model_copy(update={"champion": serving(champion.id)})
        run.log_texts({"pins.json": pins.model_dump_json()}, "provenance")
        run.set_tags({COMPARED: "Against the champion: better.", "retune.machine.gpu": "none"})
        run.log_texts({"evidence.html": "<p>"}, "promote")
    text = note(run.id, "Undecided", None, {})
    assert "| q8_0 | no | 4.00 GB |" in text
    assert "- q8_0 does not ship: expected: ratio at most 1.02; seen: 1.085" in text
    assert "No file ships: if this version serves, it does with its adapter alone." in text
    assert "Settings that differ from those of the champion, champion:" in text
    assert "Against the champion: better." in text
    asked = "\n".join(beside_the_evidence(store.get_run(run.id)))
    assert (
        "those of the champion, champion:\n- `training.learning_rate`: `0.0003` → `0.0001`" in asked
    )
    assert "No file ships: if this version serves, it does with its adapter alone." in asked
    assert beside_the_evidence(store.get_run(champion.id)) == []
    assert differing_settings(store.get_run(run.id)) == "training.learning_rate: 0.0003 → 0.0001"
    assert differing_settings(store.get_run(champion.id)) == ""
    assert has_evidence(run.id)
    assert not has_evidence(champion.id)
    assert "train/gpu_hours" not in without_gpu(store.get_run(run.id))


def test_what_gates_warned_of_is_told(store):
    of_scores = {"result": "failed", "gate": "validate", "severity": "warning"}
    row = of_scores | {"expectation": "20 scores", "seen": "8 | <b>", "setting": "validation.x"}
    passed = row | {"result": "passed", "expectation": "rows"}
    with start_run(recipe(), "warned", {}) as run:
        run.log_table([passed, row], "verdicts.json")
    text = note(run.id, "Promoted", None, {})
    assert "Warnings, which block nothing:\n\n- validate: expected 20 scores; seen: 8" in text
    assert "(`validation.x`)" in text
    assert "<b>" not in text
    assert "expected rows" not in text
    with start_run(recipe(), "many", {}) as run:
        run.log_table([row] * 9, "verdicts.json")
    assert "block nothing, the first 8 of 9:" in note(run.id, "Promoted", None, {})


def test_all_settings_unlike_those_of_the_run_before_are_named_also_beside_a_champion(store):
    ids = []
    for title, training in (
        ("champion", {"r": 8}),
        ("before", {"r": 8, "seed": 2, "max_steps": 9}),
    ):
        with start_run(recipe(**training), title, {}) as run:
            run.log_metrics({"evaluate/loss/tuned": 1.0})
            ids.append(run.id)
    with start_run(recipe(r=8, seed=3, max_steps=7, learning_rate=1e-4), "new", {}) as run:
        run.log_metrics({"evaluate/exact_match/tuned": 0.625, "evaluate/answered": 8})
        pins = PINS.model_copy(update={"champion": serving(ids[0])})
        run.log_texts({"pins.json": pins.model_dump_json()}, "provenance")
    text = note(run.id, "Undecided", before(run.id, run.experiment_id, "mail"), {})
    head, _, rest = text.partition("Settings that differ from those of the run before, before:")
    assert "Settings that differ from those of the champion, champion:" in head
    assert "- `training.max_steps`: `9` → `7`" in rest
    assert "- `training.seed`: `2` → `3`" in rest
    # A share of few says little: of how many answers it is stands beside it.
    assert "| exact match of 8 answers | 62.5% |" in text


def test_a_file_is_one_model_of_all_runs_that_give_it(store):
    file = gguf("q8_0", "2" * 64, 0.001)
    ids = []
    for ships in (True, False):
        with start_run(recipe(), "with a file", {}) as run:
            run.log_child(file, "q8_0")
            ids.append(log_file(run, file, ships))
            # A run that waited for an approval goes on here, and comes by again.
            assert log_file(run, file, ships) == ids[-1]
        outputs = store.get_run(run.id).outputs.model_outputs
        assert [output.model_id for output in outputs] == [ids[-1]]
        # The parent has the measures of its files, so that runs are compared by them.
        assert store.get_run(run.id).data.metrics["quantize/kl_divergence/q8_0"] == 0.001
    assert len(set(ids)) == 1
    model = store.get_logged_model(ids[0])
    assert (model.model_type, model.params["method"], str(model.status)) == (
        "GGUF",
        "q8_0",
        "READY",
    )
    assert {metric.key: metric.value for metric in model.metrics}["quantize/bytes"] == 4e9
    assert model.tags["retune.ships"] == "false"


def test_the_view_is_made_with_the_experiment_and_what_people_wrote_stays(store):
    experiment = store.create_experiment("viewed")
    store.set_experiment_tag(experiment, "mlflow.note.content", "ours")
    saved_view.describe_experiment(experiment, "mail")
    tags = store.get_experiment(experiment).tags
    assert tags["mlflow.note.content"] == "ours"
    view = json.loads(tags[saved_view.TAG])
    kind, _, packed = view["state"].partition(";")
    state = json.loads(zlib.decompress(base64.b64decode(packed)))
    assert (view["name"], kind) == ("Which run is better", "deflate")
    sections = {section["uuid"] for section in state["compareRunSections"]}
    assert (len(sections), len(state["compareRunCharts"])) == (3, 7)
    assert {chart["metricSectionId"] for chart in state["compareRunCharts"]} == sections
    assert ("viewed", experiment) in saved_view.experiments(5)
    # What says most is seen first, and rejected runs are no surprise: their outcome stands beside them.
    assert state["selectedColumns"][:3] == [
        "tags.`retune.outcome`",
        "tags.`retune.place`",
        "metrics.`evaluate/loss/tuned`",
    ]
    assert state["searchFilter"] == "tags.`retune.registered` LIKE '%'"
    old = view | {"state": "deflate;" + base64.b64encode(zlib.compress(b"{}")).decode()}
    for change, kept in (({}, False), ({"updatedAt": view["updatedAt"] + 1}, True)):
        store.set_experiment_tag(experiment, saved_view.TAG, json.dumps(old | change))
        saved_view.describe_experiment(experiment, "mail")
        now = json.loads(store.get_experiment(experiment).tags[saved_view.TAG])["state"]
        assert (now == old["state"]) == kept
    fragment = urlsplit(saved_view.link("http://h:1", experiment)).fragment
    asked = parse_qs(fragment.partition("?")[2])
    assert asked == {
        "workflowType": ["machine_learning"],
        "viewStateShareKey": [saved_view.TAG.rpartition(".")[2]],
    }


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        ("https://me:secret@mlflow.example/team/", "https://mlflow.example/team"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("sqlite:////tmp/mlflow.db", None),
        ("", None),
    ],
)
def test_the_address_of_the_pages_holds_no_sign_in(uri, address, monkeypatch, tmp_path):
    monkeypatch.setenv("RETUNE_HOME", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert mlflow_pages() == address
