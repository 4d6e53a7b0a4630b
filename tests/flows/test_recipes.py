"""The shipped recipes never rot, and the form shows every setting."""

import inspect
from pathlib import Path

import pytest
import yaml

from expectations.verdicts import severity
from flows import recipes
from flows.retrain import retrain
from retune.recipe import Recipe, RecipeError

ROOT = Path(__file__).parent.parent.parent
# of validation and of quantization
INNER_SECTIONS = (
    *("tolerances", "classifier", "drift", "profile", "decontamination", "gates"),
    *("mix", "suites", "judge"),
)
DECLARED = {
    d["name"]: d for d in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
}


@pytest.fixture(autouse=True)
def _in_project(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("name", DECLARED)
def test_every_deployment_is_a_valid_recipe_of_its_name(name):
    assert recipes.load(name, []).name == name
    assert DECLARED[name]["entrypoint"] == "flows/retrain.py:retrain"


def test_the_demo_finds_its_inputs_wherever_the_home_is(monkeypatch, tmp_path):
    assert recipes.load("demo", []).model.base == ".retune/demo/base"
    monkeypatch.setenv("RETUNE_HOME", str(tmp_path / "home"))
    assert recipes.load("demo", []).model.base == ".retune/demo/base"  # for the error to name
    (tmp_path / "home" / "demo" / "base").mkdir(parents=True)
    (tmp_path / "home" / "demo" / "finetome-demo.jsonl").touch()
    demo = recipes.load("demo", [])
    assert demo.model.base == str(tmp_path / "home" / "demo" / "base")
    assert demo.dataset.source == str(tmp_path / "home" / "demo" / "finetome-demo.jsonl")


def test_a_model_with_one_job_is_told_what_else_it_forgets_and_others_are_rejected():
    severities = {
        name: severity(recipes.load(name, []), "promote", "budget")
        for name in ("smollm2", "llama31-8b-finetome")
    }
    assert severities == {"smollm2": "warning", "llama31-8b-finetome": "critical"}


def test_the_flagship_is_the_articles_run():
    recipe = recipes.load("llama31-8b-finetome", [])
    assert recipe.model.base == "unsloth/Meta-Llama-3.1-8B-bnb-4bit"
    assert recipe.dataset.source == "mlabonne/FineTome-100k"
    # Its layers by name; of Llama `auto` is the same ones.
    sections = {"model": {"base": "b"}, "dataset": {"source": "s"}}
    named = {"target_modules": recipe.training.target_modules}
    assert len(named["target_modules"]) == 7
    assert recipe.training == Recipe.parse({"name": "r", "training": named} | sections).training
    assert DECLARED["llama31-8b-finetome"]["schedules"][0]["cron"] == "0 2 * * 0"
    assert recipes.load("llama31-8b-finetome-10k", []).dataset.split == "train[:10000]"


def test_the_flow_takes_exactly_a_recipe():
    parameters = inspect.signature(retrain.fn).parameters
    assert parameters.keys() == Recipe.model_fields.keys()
    for name, field in Recipe.model_fields.items():
        annotation = parameters[name].annotation
        assert getattr(annotation, "__origin__", annotation) == field.annotation
        if not field.is_required():
            assert parameters[name].default == field.default


@pytest.mark.parametrize("name", DECLARED)
def test_prefects_server_accepts_the_parameters(name):
    from prefect.utilities.schema_tools import validate

    schema = retrain.parameters.model_dump_for_openapi()
    validate(DECLARED[name]["parameters"], schema, raise_on_error=True)


def test_a_recipe_may_be_a_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nmodel: {base: a/b}\ndataset: {source: c/d}\n")
    assert recipes.load(str(path), ["training.r=8"]).training.r == 8


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("nope", None, "no deployment 'nope' in prefect.yaml \\(there: demo"),
        ("nope.yaml", None, "no recipe file"),
        ("bad.yaml", "a: [", "is not YAML"),
        ("list.yaml", "- a", "expected sections"),
        ("twice.yaml", "a: {b: 1}\na: {}", "line 2: 'a' stands there already, in line 1"),
        ("latin.yaml", b"a: \xe9", "is not UTF-8 text"),
        ("large.yaml", "a: 1\n" + "#" * 2_000_000, "has more than 1,000,000 bytes"),
    ],
)
def test_a_wrong_name_or_file_says_so(tmp_path, name, text, expected):
    if text is not None:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        name = str(path)
    with pytest.raises(RecipeError, match=expected):
        recipes.load(name, [])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("deployments: [{name: a}, {name: a}]", "two deployments are named 'a'"),
        ("deployments: [{nam: a}]", "a deployment needs a name, got {'nam': 'a'}"),
        ("deployments: [a]", "a deployment needs a name, got 'a'"),
        ("deployments:\n- name: a\n  parameters: {x: 1}\n  parameters: {}", "line 4: 'parameters'"),
        ("deployments: 7", "no deployment 'a' in prefect.yaml \\(there: none"),
        ("- a", "no deployment 'a' in prefect.yaml \\(there: none"),
        ("", "no deployment 'a'"),
        ("deployments: [{name: a, parameters: 7}]", "expected sections"),
        ("deployments: [{name: a, parameters: }]", "name is missing"),
    ],
)
def test_a_wrong_list_of_deployments_says_so(tmp_path, monkeypatch, text, expected):
    (tmp_path / "prefect.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match=expected):
        recipes.load("a", [])


def test_the_shipped_recipes_are_read_as_prefect_reads_them():
    read = {name: entry.get("parameters") for name, entry in DECLARED.items()}
    assert recipes.deployments() == read


def test_deployments_come_from_here_or_else_with_retune(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert recipes.deployments().keys() == DECLARED.keys()
    (tmp_path / "prefect.yaml").write_text("deployments: [{name: mine}]")
    assert recipes.deployments() == {"mine": {}}


def test_a_deployment_of_another_flow_is_no_recipe(tmp_path, monkeypatch):
    (tmp_path / "prefect.yaml").write_text(
        "deployments: [{name: mine}, {name: report, entrypoint: reports.py:report}]"
    )
    monkeypatch.chdir(tmp_path)
    assert recipes.deployments() == {"mine": {}}
    with pytest.raises(RecipeError, match=r"no deployment 'report' .*there: mine\)"):
        recipes.load("report", [])
