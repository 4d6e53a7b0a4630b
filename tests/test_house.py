"""The house rules that a machine can hold."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {
    "flows": {"flows", "tasks", "expectations", "retune"},
    "tasks": {"tasks", "expectations", "retune"},
    "expectations": {"expectations", "retune"},
    "retune": {"retune"},
    "infra": {"infra", "retune"},
    "demo": {"demo", "retune"},
}


@cache
def syntax(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imports(path: Path) -> set[str]:
    """Return the full names of the modules that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(syntax(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


SOURCES = [path for folder in ALLOWED for path in sorted((ROOT / folder).rglob("*.py"))]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    folder = path.relative_to(ROOT).parts[0]
    ours = {name for name in imports(path) if name.partition(".")[0] in ALLOWED}
    assert {name.partition(".")[0] for name in ours} <= ALLOWED[folder]
    if folder in ("retune", "expectations"):
        assert not any(name.partition(".")[0] == "prefect" for name in imports(path))
    if folder == "tasks":
        stage = path.relative_to(ROOT).with_suffix("").parts[1]
        entered = {"train", "merge"} if stage == "rehearse" else set()
        others = {name.split(".")[1] for name in ours if name.startswith("tasks.")} - {
            *(stage, "stage"),
            *entered,
        }
        assert not others, f"stage {stage} imports other stages: {others}"
        if path.name not in ("task.py", "stage.py"):
            assert not any(name.partition(".")[0] == "prefect" for name in imports(path))
        if path.name == "__init__.py" and path.parent.name != "tasks":
            assert not path.read_text(encoding="utf-8"), (
                "a room is named, nothing happens at its door"
            )


def test_every_stage_takes_recipe_pins_and_step():
    """And its inputs before these, whatever they are; it gives one output."""
    stages = [
        node
        for path in sorted((ROOT / "tasks").glob("*/task.py"))
        for node in syntax(path).body
        if isinstance(node, ast.FunctionDef)
        and any(ast.unparse(one).startswith("stage(") for one in node.decorator_list)
    ]
    assert len(stages) == 18
    for stage in stages:
        names = [argument.arg for argument in stage.args.args]
        assert names[-3:] == ["recipe", "pins", "step"], stage.name


def test_a_limit_is_read_by_its_judge_alone():
    """No stage reads a setting that its key leaves out as a limit."""
    for path in sorted((ROOT / "tasks").glob("*/key.py")):
        names = {
            constant.value
            for node in syntax(path).body
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "LIMITS"
            for constant in ast.walk(node.value)
            if isinstance(constant, ast.Constant)
        }
        for other in sorted(path.parent.glob("*.py")):
            read = {
                node.attr for node in ast.walk(syntax(other)) if isinstance(node, ast.Attribute)
            }
            assert not read & names, f"{other} reads a limit"


def test_no_two_classes_have_one_name():
    """Whoever searches for a class finds one; private ones are of their file."""
    names = [
        node.name
        for path in SOURCES
        for node in ast.walk(syntax(path))
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    ]
    assert {name for name in names if names.count(name) > 1} == set()


def test_no_file_is_named_after_a_library():
    libraries = {"mlflow", "prefect", "datasets", "transformers", "torch", "peft", "trl", "gguf"}
    assert not [path for path in SOURCES if path.stem in libraries]


@pytest.mark.parametrize(
    "module", ["flows.cli", "flows.plan", "retune.recipe", "expectations.data.suite"]
)
def test_imports_are_light(module):
    heavy = [
        "torch",
        "transformers",
        "mlflow",
        "great_expectations",
        "datasets",
        "polars",
        "prefect",
    ]
    code = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.strip() == "[]"


def calls(*names: str) -> list[tuple[str, str, dict[str | None, str]]]:
    """Return every call of a method by one of `names`: its file, what is called, and the arguments
    by name, as they are written."""
    return [
        (
            str(path.relative_to(ROOT)),
            ast.unparse(node.func),
            {one.arg: ast.unparse(one.value) for one in node.keywords},
        )
        for path in SOURCES
        for node in ast.walk(syntax(path))
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in names
    ]


def test_a_models_code_is_trusted_nowhere_but_where_the_recipe_allows_it():
    trusting = [
        (file, called)
        for file, called, given in calls("from_pretrained", "from_config")
        if given.get("trust_remote_code") != "False"
    ]
    assert trusting == [
        ("retune/loaders.py", "AutoConfig.from_pretrained"),  # admit
        ("retune/loaders.py", "AutoTokenizer.from_pretrained"),
        ("retune/models.py", "PeftModel.from_pretrained"),  # an adapter that we wrote; has no code
    ]


def test_the_flow_itself_opens_no_model():
    """A model is a stranger's, and the flow's process has the secrets: children without them look."""
    opening = {"retune.loaders", "retune.models", "retune.outline", "retune.embeddings"}
    opening |= {"retune.chat.chatml_tokenizer", "transformers", "torch", "peft"}
    for path in (*(ROOT / "tasks").glob("*/task.py"), ROOT / "flows/retrain.py"):
        opened = {
            name for name in imports(path) if name in opening or name.partition(".")[0] in opening
        }
        assert not opened, f"{path} opens models: {opened}"


def test_what_is_saved_is_stripped_of_code():
    saving = {file for file, *_ in calls("save_pretrained", "save_model")}
    stripped = {file for file, *_ in calls("strip_code")}
    assert len(saving) >= 5
    assert {file for file in saving - stripped if not file.startswith("demo/")} == set()


def test_weights_are_read_from_safetensors_alone():
    models = [
        (called, given.get("use_safetensors"))
        for _, called, given in calls("from_pretrained")
        if "Model" in called and called != "PeftModel.from_pretrained"
    ]
    assert len(models) >= 3
    assert {safe for _, safe in models} == {"True"}
    pickles = [given.get("weights_only") for _, called, given in calls("load") if "torch" in called]
    assert set(pickles) == {"True"}
    modules = {"pickle", "joblib", "dill", "cloudpickle"}
    assert not [path for path in SOURCES if modules & imports(path)]


# Where something may be removed or replaced besides retune.home.remove, and why that is safe.
DELETES = {
    ("retune/home.py", "remove", "rmtree"): "the one that asks for the marker",
    ("retune/home.py", "remove", "unlink"): "the one that asks for the marker",
    ("retune/building.py", "_keep_logs", "rmdir"): "an empty folder of a marked stage",
    ("retune/building.py", "building", "rename"): "to a place that `remove` has just cleared",
    ("retune/files.py", "write_whole", "replace"): "a file that the caller writes anew",
    ("retune/store/checkpoints.py", "_take", "rename"): "to a place that `remove` has just cleared",
    ("retune/store/checkpoints.py", "_take", "replace"): "what lies beside older checkpoints",
    ("retune/store/transfer.py", "pull", "rename"): "to a place that `remove` has just cleared",
    ("retune/store/transfer.py", "_settle", "rename"): "a file of a copy that is being made",
    ("retune/temporary.py", "sweep", "rmtree"): "this user's temporary folder of a dead process",
    ("retune/report_folder.py", "_move_in", "rmdir"): "an empty folder of a report",
    ("retune/report_folder.py", "_move_in", "replace"): "over a file of the report's own listing",
    ("retune/llamacpp/process.py", "appearing_whole", "replace"): "the program's own output file",
    ("retune/llamacpp/process.py", "appearing_whole", "unlink"): "a temporary file made above it",
    ("tasks/train/checkpoints.py", "seal", "rename"): "the seal of a checkpoint",
    ("tasks/train/training_log.py", "cut_log", "rename"): "the training log that it has read",
    ("tasks/train/trl_child.py", "_run_workers", "unlink"): "the workers' own result file",
    ("tasks/validate/scoring_child.py", "write", "replace"): "a shard's own file of scores",
    ("tasks/validate/spread_scores.py", "_write", "replace"): "the same, of another machine",
    ("expectations/data/tables.py", "writing", "replace"): "the table that its caller writes",
    (
        "retune/harvesting/ledger.py",
        "settle",
        "replace",
    ): "a shard over itself, whose hash is noted",
    ("retune/serving.py", "serve", "replace"): "the link to what serves, which only it makes",
    ("retune/serving.py", "serve", "rename"): "a copy of the same, into a folder that goes at once",
    ("flows/ui.py", "serve", "unlink"): "the server's own address file",
    ("flows/ui.py", "_end_leftovers", "unlink"): "the same file of a server that was killed",
    ("retune/access.py", "_read", "unlink"): "a sign-in that others could read",
    ("retune/loaders.py", "strip_code", "unlink"): "code in what a stage has just saved",
    (
        "flows/upgrading/environments.py",
        "environment",
        "rename",
    ): "to a place that held no whole environment",
    ("infra/llamacpp/build.py", "making", "unlink"): "the build's own log, under the build's lock",
    (
        "infra/llamacpp/build.py",
        "making",
        "rename",
    ): "to a place that was not there, under the lock",
    ("infra/llamacpp/build.py", "unpack_source", "rename"): "within a scratch folder",
    ("demo/prepare.py", "base_model", "rename"): "to a place that was not there",
    ("demo/smollm2_base.py", "from_wheel", "rename"): "to a place that was not there",
    ("benchmarks/made_up.py", "_cached", "rename"): "to a place that was not there",
}


def deletions(path: Path) -> set[tuple[str, str, str]]:
    """Return what in a file removes, or moves over something: (file, function, method)."""
    found = set()
    for function in ast.walk(syntax(path)):
        if not isinstance(function, ast.FunctionDef):
            continue
        for node in ast.walk(function):
            # Bare names too: passed on, or imported with `from shutil import`.
            name = getattr(node, "attr", getattr(node, "id", ""))
            if name in ("rmtree", "unlink", "rmdir", "removedirs"):
                found.add((str(path.relative_to(ROOT)), function.name, name))
            if name == "remove" and ast.unparse(node).startswith("os."):
                found.add((str(path.relative_to(ROOT)), function.name, name))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                moves = node.func.attr in ("rename", "replace") and len(node.args) == 1
                if moves or node.func.attr in ("move", "renames"):
                    found.add((str(path.relative_to(ROOT)), function.name, node.func.attr))
    return found


def test_only_one_function_deletes():
    everywhere = [*SOURCES, *sorted((ROOT / "benchmarks").rglob("*.py"))]
    assert set().union(*map(deletions, everywhere)) == set(DELETES)
