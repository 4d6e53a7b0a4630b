"""Tasks of lm-eval, asked of a tiny trained model: graded as it does, resumed, asked of the champion."""

import json
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import polars as pl
import pytest

from retune.child import ChildFailed, ChildRefused
from retune.outcomes import read_grades
from retune.outputs import Step
from retune.recipe import Evaluation
from retune.recipe.harness import HarnessTask
from retune.records import Champion
from retune.sources import SourceError
from retune.suites import harness
from retune.suites.harness import pin_tasks, pinned_tasks
from retune.tracking import start_run
from tasks.evaluate import task
from tasks.evaluate.task import evaluate, measure_champion
from tasks.evaluate.trial import try_tasks
from tests.harness_tasks import CHOICE, use_lm_eval, write_tasks
from tests.tasks.conftest import COLOURS, running_child

# A child of lm-eval's takes 8 s of a core to import it, and the first test trains.
pytestmark = [
    pytest.mark.proof,
    pytest.mark.usefixtures("at_home"),
    pytest.mark.timeout(900),
]
SUITES = ("both", "first")
ALONE = """
import json, os, sys
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

base, adapter, tokenizer, folder = sys.argv[1:]
os.chdir(folder)  # where lm-eval looks for the files of its tasks
found = {}
for side in ("base", "tuned"):
    model = HFLM(
        pretrained=base, tokenizer=tokenizer, device="cpu", dtype="float32",
        peft=adapter if side == "tuned" else None,
    )
    for suite, name, few_shot, limit, metric in (
        ("both", "colours", None, None, None), ("first", "colours_choice", 1, 3, "acc_norm"),
    ):
        results = simple_evaluate(
            model=model, tasks=[name], task_manager=TaskManager(include_path=".", include_defaults=False),
            num_fewshot=few_shot, limit=limit, apply_chat_template=True, log_samples=True,
            bootstrap_iters=0, batch_size=1,
        )
        for leaf, samples in results["samples"].items():
            chosen = [one for one in samples if one["filter"] in ("none", "strict")]
            of = metric or ("acc" if leaf == "colours_choice" else "exact_match")
            found[f"{suite}/{leaf}/{side}"] = [float(one[of]) for one in chosen]
print("FOUND", json.dumps(found))
"""


@pytest.fixture(scope="module", autouse=True)
def _lm_eval():
    from retune.version import installed

    with pytest.MonkeyPatch.context() as patch:
        use_lm_eval(patch)
        installed.cache_clear()
        yield
    installed.cache_clear()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tasks(tmp_path_factory.mktemp("harness") / "tasks")


def with_tasks(project, *tasks: HarnessTask):
    config = Evaluation(
        max_new_tokens=8, batch_size=16, prompts=(), battery=False, generation_rows=2, tasks=tasks
    )
    return project.recipe(evaluation=config)


@pytest.fixture(scope="module")
def recipe(project, folder):
    both = HarnessTask(name="both", task="colours", folder=str(folder))
    first = HarnessTask(
        name="first",
        task="colours_choice",
        folder=str(folder),
        metric="acc_norm",
        few_shot=1,
        rows=3,
    )
    return with_tasks(project, both, first)


@pytest.fixture(scope="module")
def pins(project, recipe):
    return project.pins.model_copy(update={"tasks": pin_tasks(recipe)})


@pytest.fixture(scope="module")
def scores(project, trained, recipe, pins):
    with project.at_home():
        step = Step(stage="evaluate", key={"tasks": 1})
        return evaluate.fn(trained.adapter, None, project.chats, recipe, pins, step)


def lines(output) -> pl.DataFrame:
    return pl.read_parquet(output.outcomes).filter(pl.col("suite").is_in(SUITES))


def test_each_example_is_an_outcome_of_each_side(scores, pins):
    table = lines(scores)
    assert dict(table["side"].value_counts().iter_rows()) == {"base": 19, "tuned": 19}
    assert set(table.filter(suite="both")["slice"]) == {"colours_choice", "colours_said"}
    assert table.group_by("suite", "example").len()["len"].to_list() == [2] * 19
    said = table.filter(side="tuned", suite="both", slice="colours_said", expected="green")
    assert json.loads(said["prompt"][0]) == [{"role": "user", "content": "say green"}]
    assert said["answer"][0] == "green"
    choice = table.filter(side="tuned", suite="both", slice="colours_choice")
    assert set(choice["expected"]) == set(COLOURS)
    assert set(choice["answer"]) <= {*COLOURS, "grey"}
    conditions = json.loads(json.loads(said["conditions"][0])["task"])
    assert conditions["lm-eval"] == pins.tasks[0].harness
    assert conditions["version"] == "2.0, 7"
    assert conditions["metric"] == "acc,none, exact_match,strict"


def test_grades_are_those_of_lm_eval_alone(project, trained, scores, folder):
    """With its own loading of base and adapter, its own chat template, and one prompt at a time."""
    tokenizer = project.chats.tokenizer
    places = [project.model.base, trained.adapter.path, tokenizer, folder]
    done = subprocess.run(
        [sys.executable, "-c", ALONE, *map(str, places)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("FOUND "))
    alone = json.loads(line.removeprefix("FOUND "))
    mine = {
        f"{suite}/{leaf}/{side}": [grades[0]["value"] for grades in values]
        for (suite, leaf, side), values in lines(scores)
        .group_by("suite", "slice", "side", maintain_order=True)
        .agg("grades")
        .select(pl.concat_list("suite", "slice", "side"), "grades")
        .iter_rows()
    }
    assert mine == alone
    assert sum(alone["both/colours_said/tuned"]) == 4  # it has learned to say half of the colours
    assert sum(alone["both/colours_said/base"]) == 0


def test_a_suite_is_measured_in_all_and_by_task(scores):
    grades = read_grades(scores.outcomes).filter(suite="both", side="tuned")
    metrics = scores.metrics
    assert metrics["passed/both/tuned"] == pytest.approx(grades["value"].mean())
    assert metrics["passed/both/colours_said/tuned"] == 0.5
    assert "passed/first/tuned" in metrics
    assert "passed/first/colours_choice/tuned" not in metrics  # it has but one
    assert not (scores.folder / task.SO_FAR).exists()


def test_a_killed_attempt_goes_on_with_the_tasks_that_it_has(
    project, trained, recipe, pins, scores, monkeypatch
):
    """The answers are marked in between, so that what is kept can be told from what is asked again."""
    step = Step(stage="evaluate", key={"tasks": "killed"})
    said = []

    def kill(event):
        if "colours_said" in event.get("text", ""):
            running_child().kill()

    with project.at_home():
        monkeypatch.setattr(task, "_tell", kill)
        with pytest.raises(ChildFailed, match="SIGKILL"):
            evaluate.fn(trained.adapter, None, project.chats, recipe, pins, step)
        so_far = step.folder.with_name(f"{step.folder.name}.partial") / task.SO_FAR
        kept = [json.loads(line) for line in so_far.read_text().splitlines() if line]
        (done,) = [entry for entry in kept if entry["key"].startswith("task ")]
        assert done["key"] == "task base/both/colours_choice"
        for sample in done["value"]:
            sample["answer"] = "kept"
        so_far.write_text("\n".join(map(json.dumps, kept)) + '\n{"key": "cut in the m')
        monkeypatch.setattr(task, "_tell", lambda event: said.append(event.get("text", "")))
        again = evaluate.fn(trained.adapter, None, project.chats, recipe, pins, step)
    assert "base: both: task 2 of 2, colours_said" in said
    assert not any("base: both: task 1" in text for text in said)
    marked = lines(again).filter(answer="kept")
    assert dict(marked.group_by("side").len().iter_rows()) == {"base": 8}
    assert (
        lines(again).select("example", "grades").equals(lines(scores).select("example", "grades"))
    )


@pytest.fixture
def champion(project, trained):
    return Champion(
        version=3,
        run_id="0" * 32,
        adapter=trained.step.fingerprint,
        base=project.model.base,
        model_pin=project.pins.model,
        load_in_4bit=False,
    )


def test_the_champion_is_asked_the_same(project, recipe, pins, scores, champion):
    step = Step(stage="champion", key={"tasks": "asked"})
    with project.at_home():
        contender = measure_champion.fn(champion, project.chats, recipe, pins, step)
    tuned = lines(scores).filter(side="tuned")
    columns = ["suite", "slice", "example", "answer", "grades"]
    assert set(lines(contender)["side"]) == {"champion"}
    assert lines(contender).select(columns).equals(tuned.select(columns))
    assert contender.metrics["passed/both/champion"] == scores.metrics["passed/both/tuned"]


def test_what_the_champions_run_recorded_is_taken_if_the_task_is_the_same(
    project, recipe, pins, scores, champion
):
    with project.at_home(), start_run(recipe, "tasks", {}) as run:
        run.log(scores)
    gone = champion.model_copy(update={"adapter": "0" * 16, "run_id": run.id})
    changed = pins.tasks[1].model_copy(update={"places": ("elsewhere",)})
    others = pins.model_copy(update={"tasks": (pins.tasks[0], changed)})
    with project.at_home():
        step = Step(stage="champion", key={"tasks": "recorded"})
        contender = measure_champion.fn(gone, project.chats, recipe, others, step)
    assert contender.missing == ""
    assert set(lines(contender)["suite"]) == {"both"}


def test_a_folder_that_changed_ends_the_stage(project, trained, recipe, pins, folder):
    step = Step(stage="evaluate", key={"tasks": "changed"})
    file = folder / "said.jsonl"
    before = file.read_bytes()
    try:
        file.write_bytes(before.replace(b"green", b"grean"))
        with (
            project.at_home(),
            pytest.raises(SourceError, match=r"tasks\.0\.folder.* changed while"),
        ):
            evaluate.fn(trained.adapter, None, project.chats, recipe, pins, step)
    finally:
        file.write_bytes(before)
    assert not step.done
    assert pin_tasks(recipe) == pins.tasks
    assert not (folder / "__pycache__").exists()  # though its functions were imported


def tried(project, **settings: object) -> list[str]:
    recipe = with_tasks(project, HarnessTask(name="t", **settings))
    pins = project.pins.model_copy(update={"tasks": pin_tasks(recipe)})
    return list(try_tasks(recipe, pins, Step(stage="evaluate", key={"tried": str(settings)})))


def test_tasks_are_tried_before_anything_is_trained(project, folder):
    assert tried(project, task="colours", folder=str(folder)) == [
        f"t: 16 examples of colours, by lm-eval {pin_version()}"
    ]
    assert tried(project, task="colours_said", folder=str(folder), rows=3)[0].startswith("t: 3 ")


def pin_version() -> str:
    from retune.version import installed

    return installed("lm_eval")


METRIC = "  - {metric: exact_match, aggregation: mean, higher_is_better: true, ignore_case: true}"
PERCENT = "def percent(doc, results):\n    return {'exact_match': 100}\n\n\n"
# What is changed in a file of the folder, and what is said of it.
REFUSED = {
    "a metric of the whole set": ({}, {"metric": "bleu"}, "use exact_match"),
    "an unknown metric": ({}, {"metric": "f1"}, "has no metric 'f1'; use exact_match"),
    "an unknown filter": (
        {},
        {"metric": "exact_match,loose"},
        "has no filter 'loose'; use strict, first-word",
    ),
    "an unknown task": ({}, {"task": "colours_sayd"}, "did you mean 'colours_said'?"),
    "nothing that grades an example": (
        {"said.yaml": (METRIC, "")},
        {},
        "cannot be graded example by example: bleu exists for all examples together alone",
    ),
    "code that a model writes": (
        {"said.yaml": ("test_split: test", "test_split: test\nunsafe_code: true")},
        {},
        "runs code that the model writes",
    ),
    "a metric that is code on the Hub": (
        {"said.yaml": (METRIC, METRIC.replace("exact_match", "wer"))},
        {},
        "wer is none of lm-eval's own, but code on the Hub",
    ),
    "data elsewhere": (
        {"said.yaml": ("test: said.jsonl", "test: /etc/passwd")},
        {},
        "reads /etc/passwd, and no such file is in",
    ),
    "data at an address": (
        {"said.yaml": ("test: said.jsonl", 'test: "https://nowhere.example/said.jsonl"')},
        {},
        "which nobody can pin",
    ),
    "a function that fails": (
        {"words.py": ("return docs", "raise KeyError('x')\n    return docs")},
        {},
        "colours_said cannot be asked: KeyError: 'x' (",
    ),
    "grades that are no shares": (
        {
            "said.yaml": ("process_docs", "process_results: !function words.percent\nprocess_docs"),
            "words.py": ("def lower", PERCENT + "def lower"),
        },
        {},
        "exact_match of an example is 100, and a grade is a number from 0 to 1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_asked_is_told_before_anything_is_trained(project, tmp_path, case):
    changes, settings, words = REFUSED[case]
    folder = write_tasks(tmp_path / "tasks")
    for name, (old, new) in changes.items():
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))
    with project.at_home(), pytest.raises((ChildRefused, SourceError)) as told:
        tried(project, **{"task": "colours_said", "folder": str(folder)} | settings)
    assert str(told.value).startswith("evaluation.tasks.0")
    assert words in str(told.value)
    assert "\n" not in str(told.value)


def test_pinning_runs_nothing_of_a_folder(project, tmp_path):
    folder = write_tasks(tmp_path / "tasks")
    (folder / "words.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ndef lower(docs): 0")
    recipe = with_tasks(project, HarnessTask(name="t", task="colours", folder=str(folder)))
    assert len(pin_tasks(recipe)[0].leaves) == 2
    assert not (tmp_path / "ran").exists()


def test_what_tasks_are_is_asked_of_lm_eval_once(project, tmp_path, monkeypatch):
    """A plan and the run after it ask for the same, and a child of lm-eval's takes 8 s of a core."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = write_tasks(tmp_path / "tasks")
    recipe = with_tasks(project, HarnessTask(name="t", task="colours", folder=str(folder)))
    then = pin_tasks(recipe)
    with monkeypatch.context() as without:
        without.setattr(harness, "CHILD", tmp_path / "nobody.py")
        assert pin_tasks(recipe) == then
        other = HarnessTask(name="t", task="colours", folder=str(folder), few_shot=1)
        for changed in (with_tasks(project, other), recipe):
            with pytest.raises(ChildFailed):
                pin_tasks(changed)
            (folder / "choice.yaml").write_text(CHOICE.replace("2.0", "3.0"))
    assert {leaf.version for leaf in pin_tasks(recipe)[0].leaves} == {"3.0", "7"}


def test_what_tasks_of_lm_evals_own_are_is_asked_again_when_their_files_change(
    project, hub, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    hub.add_dataset("allenai/ai2_arc", {"test.jsonl": b"{}"})
    recipe = with_tasks(project, HarnessTask(name="t", task="arc_easy"))
    then = pin_tasks(recipe)
    assert then[0].places == ("arc",)
    monkeypatch.setattr(harness, "CHILD", tmp_path / "nobody.py")
    assert pin_tasks(recipe) == then
    # A copy of lm-eval in which somebody has changed a file.
    (own,) = find_spec("lm_eval").submodule_search_locations
    theirs = tmp_path / "theirs" / "lm_eval"
    shutil.copytree(Path(own, "tasks", "arc"), theirs / "tasks" / "arc")
    (theirs / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path / "theirs")
    assert pin_tasks(recipe) == then
    with (theirs / "tasks" / "arc" / "arc_easy.yaml").open("a") as file:
        file.write("num_fewshot: 3\n")
    with pytest.raises(ChildFailed):
        pin_tasks(recipe)


def test_a_dataset_of_the_hub_is_asked_at_its_commit(project, hub, folder, tmp_path):
    own = write_tasks(tmp_path / "tasks")
    files = {"test.jsonl": (folder / "said.jsonl").read_bytes()}
    first = hub.add_dataset("you/colours", files)
    text = (own / "said.yaml").read_text()
    kwargs = "dataset_path: json\ndataset_kwargs:\n  data_files: {test: said.jsonl}"
    assert kwargs in text
    (own / "said.yaml").write_text(text.replace(kwargs, "dataset_path: you/colours"))
    asked = HarnessTask(name="t", task="colours_said", folder=str(own))
    recipe = with_tasks(project, asked)
    then = pin_tasks(recipe)
    assert then[0].leaves[0].commit == first
    two = b"\n".join(files["test.jsonl"].split(b"\n")[:2])
    second = hub.repos["dataset", "you/colours"].commit({"test.jsonl": two})
    assert pin_tasks(recipe)[0].leaves[0].commit == second
    assert pinned_tasks(recipe, then)[0].revisions == {"you/colours": first}
    fixed = with_tasks(project, *pinned_tasks(recipe, then))
    assert pin_tasks(fixed) == then
    counts = [
        next(
            try_tasks(
                fixed,
                project.pins.model_copy(update={"tasks": tasks}),
                Step(stage="evaluate", key={"hub": tasks[0].version}),
            )
        )
        for tasks in (then, pin_tasks(recipe))
    ]
    assert [count.partition(" examples")[0] for count in counts] == ["t: 8", "t: 2"]


def test_the_doors_of_lm_eval_are_there():
    """Private or undocumented, and used in retune/suites/harness_tasks.py or tasks/evaluate/."""
    found = find_spec("lm_eval")
    assert found
    assert found.origin
    package = Path(found.origin).parent
    words = {
        "tasks/_yaml_loader.py": ("def load_yaml(", "resolve_func: bool"),
        "tasks/manager.py": ("def task_index(", "include_defaults: bool"),
        "api/model.py": ("def set_cache_hook(", "def add_partial("),
        "api/task.py": ("def set_fewshot_seed(", "class ConfigurableTask("),
        "evaluator.py": ('"filter": filter_key', '"doc_hash": hash_string(', '"target_hash"'),
    }
    for file, doors in words.items():
        text = (package / file).read_text()
        assert [door for door in doors if door not in text] == []
