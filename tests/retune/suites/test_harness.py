"""Suites of lm-eval without lm-eval: the recipe's rules, pins, and what becomes of what it logs."""

import json
import re
import tomllib
from math import nan

import pytest

from retune.conditions import changed, conditions
from retune.made_with import EXEMPT_PACKAGES, closure
from retune.outcomes import PASSED, Outcome, example_name
from retune.recipe import Recipe, RecipeError
from retune.recipe.harness import HarnessTask
from retune.records import HarnessLeaf, HarnessPin, Pins
from retune.sources import SourceError
from retune.suites import harness
from retune.suites.harness import data_of, pin_tasks, pinned_tasks, require_unchanged
from retune.suites.harness_tasks import TaskRefused
from tasks.evaluate.harness import samples
from tasks.evaluate.harness_outcomes import (
    HarnessSample,
    task_outcomes,
)
from tasks.evaluate.key import _tasks
from tasks.evaluate.probing import task_measures
from tests.harness_tasks import write_tasks
from tests.test_house import ROOT

LEAF = HarnessLeaf(
    name="arc", version="1.0", config="c", dataset=None, commit=None, metric="acc", filter="none"
)
PIN = HarnessPin(harness="0.4.13", folder=None, places=("arc",), leaves=(LEAF,))


def recipe(*tasks: dict, promotion: dict | None = None, **evaluation) -> Recipe:
    values = {"name": "r", "model": {"base": "b"}, "dataset": {"source": "nothing.jsonl"}}
    sections = {"evaluation": {"tasks": tasks, "battery": False} | evaluation}
    return Recipe.parse(values | sections | {"promotion": promotion or {}})


ARC = {"name": "arc", "task": "arc_easy"}
MISTAKES = [
    ({"tasks": [ARC, ARC]}, "evaluation: tasks.1.name: 'arc' is taken"),
    ({"tasks": [ARC | {"name": "battery"}]}, "'battery' is taken"),
    (
        {"tasks": [ARC], "suites": [{"name": "arc", "path": "p.jsonl"}]},
        "tasks.0.name: 'arc' is taken",
    ),
    ({"tasks": [ARC | {"name": "Arc"}]}, "String should match pattern"),
    ({"tasks": [ARC | {"few_shot": -1}]}, "few_shot: should be greater"),
    ({"tasks": [ARC | {"limit": 3}]}, "limit"),
    (
        {"tasks": [ARC], "judge": {"url": "http://x", "model": "m", "compare": ["arc"]}},
        "'arc' is no suite that is asked",
    ),
]


@pytest.mark.parametrize(("evaluation", "words"), MISTAKES)
def test_what_is_no_suite_of_tasks_is_refused_in_one_line(evaluation, words):
    with pytest.raises(RecipeError) as caught:
        recipe(*evaluation.pop("tasks"), **evaluation)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_task_is_promoted_by_what_passes_alone():
    assert recipe(ARC, promotion={"wins": ["arc/passed"], "floors": {"arc/passed": 0.5}})
    assert recipe(ARC, promotion={"margins": {"arc/passed": "2σ"}})
    for scorer in ("stopped", "judge"):
        with pytest.raises(RecipeError, match=r"graded by '\w+'; use passed"):
            recipe(ARC, promotion={"wins": [f"arc/{scorer}"]})


def test_without_lm_eval_a_recipe_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(harness, "installed", lambda _: "absent")
    with pytest.raises(SourceError, match=r'pip install "retune\[lm-eval\]"') as told:
        pin_tasks(recipe(ARC))
    assert "\n" not in str(told.value)
    assert pin_tasks(recipe()) == ()


def test_the_key_has_what_is_asked_and_by_which_versions():
    of = recipe(ARC)

    def asked(task: dict, pin: HarnessPin = PIN) -> object:
        return _tasks(recipe(task), Pins(dataset="d", model="m", tasks=(pin,)))

    assert _tasks(recipe(), Pins(dataset="d", model="m")) == {}
    same = asked(ARC)
    assert asked(ARC | {"folder": "elsewhere", "revisions": {"a/b": "main"}}) == same
    for other in ({"few_shot": 1}, {"rows": 9}, {"task": "arc_hard"}, {"name": "b"}):
        assert asked(ARC | other) != same
    for change in ({"harness": "0.5"}, {"folder": "sha256:1"}, {"leaves": ()}):
        assert asked(ARC, PIN.model_copy(update=change)) != same
    assert Pins(dataset="d", model="m", tasks=(PIN,)).named()["task.0"] == PIN.version
    assert of.evaluation.task_names == ("arc",)


def test_evaluations_of_other_recipes_do_not_depend_on_lm_eval():
    modules, packages = closure("evaluate", "tasks.evaluate.task")
    assert "tasks.evaluate.harness" in modules
    assert "lm_eval" in packages & EXEMPT_PACKAGES.keys()


def test_a_recipe_is_resolved_to_the_commits_of_datasets():
    leaf = LEAF.model_copy(update={"dataset": "a/b", "commit": "0" * 40})
    pin = PIN.model_copy(update={"leaves": (leaf,)})
    (task,) = pinned_tasks(recipe(ARC | {"revisions": {"a/b": "main", "c/d": "x"}}), (pin,))
    assert task.revisions == {"a/b": "0" * 40, "c/d": "x"}


@pytest.fixture
def folder(tmp_path):
    return write_tasks(tmp_path / "tasks")


def test_a_folder_is_pinned_by_its_files(folder, monkeypatch):
    monkeypatch.setattr(harness, "installed", lambda _: "0.4.13")
    of = recipe(ARC | {"folder": str(folder)})
    task = of.evaluation.tasks[0]
    pin = PIN.model_copy(update={"folder": harness._folder_version(task, 0)})
    require_unchanged(of, (pin,))
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "words.cpython-311.pyc").write_bytes(b"0")
    require_unchanged(of, (pin,))
    (folder / "words.py").write_text("")
    with pytest.raises(SourceError, match=r"tasks\.0\.folder: .* changed while"):
        require_unchanged(of, (pin,))
    with pytest.raises(SourceError, match=r"lm-eval was 0\.3 .* and is 0\.4\.13 here"):
        require_unchanged(of, (pin.model_copy(update={"harness": "0.3"}),))


@pytest.mark.parametrize("case", ["missing", "empty", "many"])
def test_a_folder_that_is_none_of_tasks_is_refused(tmp_path, monkeypatch, case):
    words = {"missing": "no folder is at", "empty": "is empty", "many": "more than 1 files"}
    if case != "missing":
        (tmp_path / "t").mkdir()
    if case == "many":
        monkeypatch.setattr(harness, "MOST_FILES", 1)
        (tmp_path / "t" / "a").touch()
        (tmp_path / "t" / "b").touch()
    task = HarnessTask(name="a", task="b", folder=str(tmp_path / "t"))
    with pytest.raises(SourceError, match=rf"evaluation\.tasks\.0\.folder: .*{words[case]}"):
        harness._folder_version(task, 0)


def test_data_are_of_the_folder_or_of_the_hub(folder):
    def files(of: object) -> object:
        config = {"dataset_path": "json", "dataset_kwargs": {"data_files": of}}
        return data_of(config, str(folder), None)["dataset_kwargs"]["data_files"]

    whole = str(folder / "said.jsonl")
    assert files({"test": "said.jsonl"}) == {"test": whole}
    assert files(["said.jsonl"]) == [whole]
    assert files(whole) == whole
    for wrong in (
        "nothing.jsonl",
        "../said.jsonl",
        ".b/a.jsonl",
        "/etc/passwd",
        "https://x.example/a.jsonl",
    ):
        with pytest.raises(ValueError, match=re.escape(wrong)):
            files(wrong)
    hub = {"dataset_path": "a/b", "dataset_kwargs": {"revision": "main"}}
    assert data_of(hub, None, "0" * 40) == {"dataset_kwargs": {"revision": "0" * 40}}
    with pytest.raises(ValueError, match="names no dataset_path"):
        data_of({}, None, None)


def test_conditions_name_what_was_asked_of_lm_eval_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("retune.conditions.rendering", lambda _: "0" * 16)
    of, pins = recipe(ARC | {"few_shot": 3}), Pins(dataset="d", model="m", tasks=(PIN,))
    today = conditions(of, tmp_path, pins)
    assert json.loads(today("arc").task) == {
        **{"lm-eval": "0.4.13", "task": "arc_easy", "version": "1.0", "metric": "acc,none"},
        **{"few_shot": "3", "rows": "all", "pin": PIN.version},
    }
    assert "task" not in json.loads(today("held_out").text)
    assert changed(today("held_out").text, today("held_out")) == ""
    assert changed(today("arc").text, today("arc")) == ""
    newer = PIN.model_copy(update={"harness": "0.5"})
    tomorrow = conditions(of, tmp_path, pins.model_copy(update={"tasks": (newer,)}))
    assert changed(today("arc").text, tomorrow("arc")).startswith("task was {")


# What lm-eval 0.4.13 logs of an example.
CHOICE = {
    "doc_id": 0,
    "target": 1,
    "arguments": [("<user>2 + 2?", " four"), ("<user>2 + 2?", " 4")],
    "resps": [[(-3.0, False)], [(-2.0, True)]],
    "filtered_resps": [(-3.0, False), (-2.0, True)],
    "filter": "none",
    "metrics": ["acc", "acc_norm", "brier_score"],
    "doc_hash": "d",
    "prompt_hash": "p",
    "target_hash": "t",
    "acc": 1.0,
    "acc_norm": 0.0,
    "brier_score": (1, [0.3, 0.7]),
}
SAID = CHOICE | {
    "target": "4",
    "arguments": [("<user>2 + 2?", {"until": ["\n"]})],
    "resps": [["It is 4."]],
    "filtered_resps": ["4"],
    "filter": "strict",
    "metrics": ["exact_match"],
    "exact_match": True,
}


def of_logged(sample: dict, metric: str, name: str = "none") -> list[HarnessSample]:
    leaf = LEAF.model_copy(update={"metric": metric, "filter": name})
    return list(samples([sample], leaf, lambda text: [{"role": "user", "content": text[6:]}]))


def test_a_logged_example_is_a_grade_with_what_was_asked_and_said():
    (choice,) = of_logged(CHOICE, "acc")
    assert (choice.expected, choice.answer, choice.grade) == ("4", "4", 1.0)
    assert of_logged(CHOICE, "acc_norm")[0].answer == "four"  # -3 of four characters, -2 of one
    assert choice.messages == [{"role": "user", "content": "2 + 2?"}]
    (said,) = of_logged(SAID, "exact_match", "strict")
    assert (said.expected, said.answer, said.grade) == ("4", "It is 4.", 1.0)
    assert of_logged(SAID, "exact_match", "flexible") == []
    single = CHOICE | {"arguments": [("<user>a", " b")], "filtered_resps": [(-3.0, False)]}
    assert of_logged(single | {"target": " b"}, "acc")[0].answer == "(-3.00 nats)"
    several = SAID | {"target": ["4", "four"]}
    assert of_logged(several, "exact_match", "strict")[0].expected == "4 | four"
    assert of_logged(CHOICE | {"acc": nan}, "acc")[0].grade is None


def test_an_example_has_one_name_whatever_the_template():
    (one,) = of_logged(CHOICE, "acc")
    other = CHOICE | {"arguments": [("[INST]2 + 2?", " four"), ("", " 4")], "prompt_hash": "q"}
    assert of_logged(other, "acc")[0].example == one.example
    assert one.example == example_name(one.messages, ["arc", "acc", "none", "d", "t"])
    assert of_logged(CHOICE | {"doc_hash": "e"}, "acc")[0].example != one.example
    assert of_logged(CHOICE, "acc_norm")[0].example != one.example


@pytest.mark.parametrize(
    ("sample", "metric", "words"),
    [
        (CHOICE, "f1", "arc gave no f1 for an example; it gives acc, acc_norm, brier_score"),
        (CHOICE, "brier_score", "is a number from 0 to 1; use acc, acc_norm"),
        (CHOICE | {"acc": 100.0}, "acc", "acc of an example is 100.0, and a grade"),
        (CHOICE | {"acc": float("inf")}, "acc", "use acc_norm"),
    ],
)
def test_what_is_no_grade_is_refused(sample, metric, words):
    with pytest.raises(TaskRefused, match=re.escape(words)):
        of_logged(sample, metric)


def test_grades_are_outcomes_and_measures():
    def graded(*grades: float | None) -> list[HarnessSample]:
        shared = {"messages": [], "expected": "a", "answer": "b"}
        return [
            HarnessSample(example=str(n), grade=grade, **shared) for n, grade in enumerate(grades)
        ]

    sides = {"tuned": {"arc": {"x": graded(1, 0, None), "y": graded(1)}, "b": {"y": graded(0.25)}}}
    table: list[Outcome] = list(task_outcomes(sides))
    assert [one.grades for one in table[:3]] == [{PASSED: 1}, {PASSED: 0}, {}]
    assert {one.slice for one in table if one.suite == "arc"} == {"x", "y"}
    assert task_measures(("arc", "b"), table) == {
        "passed/arc/tuned": pytest.approx(2 / 3),
        "passed/arc/x/tuned": 0.5,
        "passed/arc/y/tuned": 1,
        "passed/b/tuned": 0.25,
    }
    assert task_measures((), table) == {}


def test_the_lock_has_the_extra_and_nothing_that_others_have():
    lock = (ROOT / "infra" / "lm-eval.lock").read_text()
    entries = re.findall(r"^\S.*\n(?:\s+.*\n)*", re.sub(r"^#.*\n", "", lock, flags=re.M), re.M)
    versions = dict(entry.split()[0].split("==") for entry in entries)
    (extra,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]["lm-eval"]
    assert extra == f"lm-eval=={versions['lm-eval']}"
    assert all("--hash=sha256:" in entry for entry in entries)
    shared = (ROOT / "requirements.lock").read_text()
    assert [name for name in versions if re.search(rf"^{name}==", shared, re.M)] == []
