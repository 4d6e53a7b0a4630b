"""The whole line as a person runs it: `retune run`, in a folder with a small model and dataset.

In `make test` it runs once, is skipped as unchanged, and is rejected by a gate.
"""

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
import yaml

from benchmarks.imports import BUDGET, read, watched
from retune.measures import measure
from retune.recipe.methods import DEFAULT
from tests import canary
from tests.databases import furnish, furnish_prefect
from tests.flows.servers import Answer, ask, retune_ui, wait_for
from tests.tasks.conftest import make_base

RETUNE = Path(sys.executable).with_name("retune")
STRANGER = "http://stranger.example"
STAGES = [
    "conform",
    "rehearse",
    "fetch",
    "screen",
    "validate",
    "format",
    "parity",
    "train",
    "evaluate",
    "merge",
    "convert",
    "calibrate",
]
# A model that learned nothing has no favourite among its tokens; one file must not ship.
GATES = {method: {"min_same_top_token": 0.5} for method in DEFAULT}
GATES["q2_k"] = {"max_kl_divergence": 1e-9}


def sums(count: int) -> list[dict]:
    return [
        {
            "conversations": [
                {"from": "human", "value": f"What is {n} plus {n % 7}?"},
                {"from": "gpt", "value": f"It is {n + n % 7}."},
            ],
            "source": f"sums/{n % 2}",
            "score": 3.0 + n % 40 / 40,
        }
        for n in range(count)
    ]


class Project:
    """A folder with a recipe, as a user has one; commands run in it, state stays in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        make_base(folder / "base", hidden=256)  # k-quants take no narrower matrix
        self.write("good.jsonl", sums(400))
        flipped = sums(400)
        for row in flipped[:160]:
            row["conversations"].reverse()
        self.write("flipped.jsonl", flipped)
        recipe = {
            "name": "sums",
            "model": {"base": "base", "load_in_4bit": False, "max_length": 128},
            "dataset": {"source": "good.jsonl"},
            "formatting": {"held_out_share": 0.1},
            "training": {
                "batch_size": 8, "gradient_accumulation": 1, "max_steps": 4, "warmup_steps": 0,
                "optimizer": "adamw_torch", "packing": False, "gradient_checkpointing": "off",
            },
            "evaluation": {
                "max_loss_ratio": 1.1, "generation_rows": 4, "max_new_tokens": 8, "batch_size": 64,
            },
            "quantization": {"context": 64, "answer_rows": 2, "gates": GATES},
        }  # fmt: skip
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))

    def write(self, name: str, rows: list[dict]) -> None:
        (self.folder / name).write_text("\n".join(json.dumps(row) for row in rows))

    @staticmethod
    def environment() -> dict[str, str]:
        """Return this process's environment without what points to other servers and folders."""
        ours = ("PREFECT", "MLFLOW", "RETUNE_HOME")
        return {name: value for name, value in os.environ.items() if not name.startswith(ours)}

    def retune(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [RETUNE, *arguments],
            cwd=self.folder,
            env=self.environment() | environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def flow_run(self) -> tuple[str, str, set[str]]:
        """Return state, message and task names of the newest flow run, from Prefect's database."""
        with sqlite3.connect(self.folder / ".retune" / "prefect" / "prefect.db") as database:
            (run, state, message) = database.execute(
                "select r.id, r.state_name, s.message from flow_run r join flow_run_state s "
                "on r.state_id = s.id order by r.created desc limit 1"
            ).fetchone()
            tasks = database.execute(
                "select name from task_run where flow_run_id = ?", [run]
            ).fetchall()
        return state, message or "", {re.sub(r"[- ].*", "", name) for (name,) in tasks}

    def newest_mlflow_run(self):
        from mlflow import MlflowClient

        client = MlflowClient(f"sqlite:///{self.folder / '.retune' / 'mlflow.db'}")
        name = yaml.safe_load((self.folder / "recipe.yaml").read_text())["name"]
        experiment = client.get_experiment_by_name(name)
        runs = client.search_runs([experiment.experiment_id], order_by=["start_time desc"])
        parent = next(run for run in runs if "mlflow.parentRunId" not in run.data.tags)
        children = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
        return client, parent, children


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    project = Project(tmp_path_factory.mktemp("project"))
    furnish(project.folder / ".retune")
    return project


@pytest.fixture(scope="module")
def notes(tmp_path_factory):
    """A folder in which the processes of the first run say what they imported."""
    return tmp_path_factory.mktemp("imports")


@pytest.fixture(scope="module")
def first(project, notes):
    done = project.retune("run", "recipe.yaml", **watched(notes, alone=False))
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_a_run_ends_with_what_was_made(first, project):
    for words in ("rows accepted", "400 of 400", "perplexity", "top-1", "ships", "make ui"):
        assert words in first.stdout
    for method in DEFAULT:
        end = "kept" if method == "q2_k" else "ships"
        row = re.search(rf"^{method} .* {end}$", first.stdout, re.MULTILINE)
        assert row
        assert len(row[0]) <= 80
        made = (project.folder / ".retune" / "work" / "quantize").glob("*/*.gguf")
        assert f"sums-{method.upper()}.gguf" in {path.name for path in made}
    assert "(quantization.gates.q2_k.max_kl_divergence)" in " ".join(first.stdout.split())


def test_no_child_imports_more_than_its_stage_needs(first, notes):
    """By their own doing, that is: they find what the fork server has imported."""
    children = read(notes)
    scripts = {child.script for child in children}
    of_others = {"tasks/merge/trained_child.py", "tasks/select/child.py"}  # as the recipe says
    assert scripts == BUDGET.keys() - of_others | scripts & of_others
    assert any(child.forked for child in children)
    assert {child.script: child.over for child in children if child.over} == {}


def artifacts(project) -> dict[str, str]:
    """Return what the newest flow run shows in Prefect, by key."""
    with sqlite3.connect(project.folder / ".retune" / "prefect" / "prefect.db") as database:
        rows = database.execute(
            "select key, data from artifact where flow_run_id = (select id from flow_run "
            "order by created desc limit 1) and key not null order by created"
        ).fetchall()
    assert len({key for key, _ in rows}) == len(rows)
    return {key: json.loads(data) if isinstance(data, str) else data for key, data in rows}


SHOWN = {
    *("format", "training", "samples", "verdicts", "validate-report", "promote-report"),
    *("gguf-files", "gguf-chart", "summary"),
}


def test_a_run_shows_what_it_made_and_one_page(first, project):
    shown = artifacts(project)
    assert shown.keys() == SHOWN | {"in-service-sums", "retune-status"}
    page = shown["summary"]
    assert page.startswith("# ✓ Promoted\n\n**sums/1 serves")
    for words in (
        "The first run of this recipe",
        "| loss |",
        "Cost: trained for ",
        "; up to the decision ",
        "![size_and_quality.png](data:image/png;base64,",
        "/v2/artifacts/key/in-service-sums",
        "| q4_k_m |",
    ):
        assert words in page, words
    assert shown["gguf-files"].startswith("**5 of 6 files ship**")
    assert shown["format"].startswith("| | |\n|---|---:|\n| rows (train) | 3")
    assert shown["verdicts"].startswith("**1 failed and blocked")
    # A table's numbers are rounded.
    assert not re.search(r"\d\.\d{7}", shown["gguf-files"] + shown["format"] + page)


def test_the_log_holds_nothing_to_learn_to_ignore(first):
    strange = [
        line
        for line in first.stderr.splitlines()
        if re.search(r"warn|deprecat|error|traceback|exception", line, re.IGNORECASE)
    ]
    assert strange == []


def test_the_run_is_in_mlflow_with_a_child_per_quant(first, project):
    client, parent, children = project.newest_mlflow_run()
    assert parent.info.status == "FINISHED"
    assert parent.data.params["training.max_steps"] == "4"
    assert {f"{stage}/seconds" for stage in STAGES} <= set(parent.data.metrics)
    history = client.get_metric_history(parent.info.run_id, "train/loss")
    assert [entry.step for entry in history] == [1, 2, 3, 4]
    assert {child.info.run_name for child in children} == set(DEFAULT)
    for child in children:
        assert child.data.metrics["quantize/perplexity"] > 1
        assert child.data.metrics["quantize/bytes"] > 0
        assert child.data.metrics["quantize/kl_divergence"] < 0.1
        modelfile = f"quantize/sums-{child.info.run_name.upper()}.Modelfile"
        files = client.list_artifacts(child.info.run_id, "quantize")
        assert modelfile in {file.path for file in files}
    charts = client.list_artifacts(parent.info.run_id, "quantize")
    assert {file.path for file in charts} == {
        "quantize/size_and_quality.png",
        "quantize/gguf_files.json",
    }
    documents = client.list_artifacts(parent.info.run_id, "validate")
    assert {"validate/report.json", "validate/data_docs"} <= {file.path for file in documents}


def test_the_run_says_what_it_is(first, project):
    client, parent, _ = project.newest_mlflow_run()
    assert parent.info.run_name.startswith("v1 · first run · sums ")
    text = parent.data.tags["mlflow.note.content"]
    decision = parent.data.tags["retune.decision"].partition("\n")[0]
    first = text.partition("\n")[0].replace("\\", "")
    assert first.startswith(f"**{decision[:40]}")
    assert "It passed every gate that ends a run" in first
    assert "| q4_k_m |" in text
    assert parent.data.metrics["quantize/kl_divergence/q4_k_m"] < 0.1
    kept = {file.path for file in client.list_artifacts(parent.info.run_id, "rows")}
    assert kept == {"rows/accepted.parquet"}
    path = Path(client.download_artifacts(parent.info.run_id, "samples.json"))
    assert json.loads(path.read_text())["columns"][:4] == ["prompt", "expected", "base", "tuned"]
    models = client.search_logged_models([parent.info.experiment_id])
    assert sum(model.model_type == "GGUF" for model in models) == len(DEFAULT)


def test_every_metric_is_in_the_table_of_measures(first, project):
    _, parent, children = project.newest_mlflow_run()
    for run in (parent, *children):
        names = [name for name in run.data.metrics if not name.startswith("system/")]
        assert all(measure(name.partition("/")[2]).title for name in names)


def test_the_run_tells_where_it_comes_from(first, project):
    client, parent, _ = project.newest_mlflow_run()
    folder = Path(client.download_artifacts(parent.info.run_id, "provenance"))
    given = yaml.safe_load((project.folder / "recipe.yaml").read_text())
    assert yaml.safe_load((folder / "recipe.yaml").read_text()) == given
    pins = json.loads((folder / "pins.json").read_text())
    assert parent.data.tags["retune.pin.dataset"] == pins["dataset"]
    inputs = client.get_run(parent.info.run_id).inputs
    (dataset,), (model,) = inputs.dataset_inputs, inputs.model_inputs
    assert dataset.dataset.name == "good.jsonl"
    assert client.get_logged_model(model.model_id).tags["retune.pin"] == pins["model"]


@pytest.mark.proof  # a run more; each stage's tests have its reuse
def test_a_second_run_reuses_every_stage(first, project):
    shutil.rmtree(project.folder / ".retune" / "prefect")  # what exists is reused without it too
    furnish_prefect(project.folder / ".retune")
    done = project.retune("run", "recipe.yaml")
    assert done.returncode == 0, done.stderr
    assert f"all {len(STAGES) + len(DEFAULT)} outputs were reused" in done.stdout
    _, parent, children = project.newest_mlflow_run()
    assert parent.data.tags["retune.train"] == "reused"
    assert parent.info.run_name.startswith("same again · ")
    # What it took is not counted a second time.
    assert "train/seconds" not in parent.data.metrics
    assert " s" in parent.data.tags["retune.reused.train"]
    assert parent.data.metrics["evaluate/loss/tuned"] > 0
    assert len(children) == len(DEFAULT)


SKIPPED = """
import atexit, sys
heavy = {"torch", "transformers", "unsloth", "trl", "peft"}
atexit.register(lambda: print("LOADED", sorted(heavy & sys.modules.keys())))
from flows.cli import main
main()
"""


@pytest.mark.slow  # a run more; test_unchanged has the rule
def test_a_run_that_has_nothing_to_do_is_skipped_without_a_models_library(first, project):
    """As by a schedule; what it is compared with is the second run if there was one, else the first."""
    settings = ("--set", "schedule.skip_unchanged=always")
    done = subprocess.run(
        [sys.executable, "-c", SKIPPED, "run", "recipe.yaml", *settings],
        cwd=project.folder,
        env=project.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "LOADED []" in done.stdout
    assert "unchanged since" in done.stdout
    state, message, tasks = project.flow_run()
    assert (state, tasks) == ("Skipped", {"pin_inputs"})
    _, parent, _ = project.newest_mlflow_run()  # a run before it: this one left none
    assert message.startswith(f"unchanged since {parent.info.run_name} ({parent.info.run_id[:8]}),")
    assert parent.data.tags["retune.unchanged"].endswith("UTC")
    with sqlite3.connect(project.folder / ".retune" / "prefect" / "prefect.db") as database:
        (tags,) = database.execute(
            "select tags from flow_run order by created desc limit 1"
        ).fetchone()
        (page,) = database.execute(
            "select data from artifact where key = 'summary' order by created desc limit 1"
        ).fetchone()
    assert json.loads(tags) == ["skipped"]
    assert "unchanged since" in page


def tables_of_verdicts(client, run) -> list[list[dict]]:
    """Return the tables of verdicts of a run, as MLflow's pages find them."""
    named = json.loads(run.data.tags["mlflow.loggedArtifacts"])
    tables = []
    for entry in named:
        if entry["path"] != "verdicts.json":
            continue
        path = client.download_artifacts(run.info.run_id, entry["path"])
        found = json.loads(Path(path).read_text())
        tables.append([dict(zip(found["columns"], row, strict=True)) for row in found["data"]])
    return tables


def test_every_gate_leaves_its_verdicts(first, project):
    client, parent, _ = project.newest_mlflow_run()
    (table,) = tables_of_verdicts(client, parent)
    gates = {row["gate"] for row in table}
    # What fetch and calibrate make has no gate; of screen and validate there is one.
    assert gates == {*STAGES, "quantize", "promote"} - {"fetch", "screen", "calibrate"}
    (failed,) = [row for row in table if row["result"] == "FAILED"]
    assert failed["setting"] == "quantization.gates.q2_k.max_kl_divergence"


class Rejection(NamedTuple):
    """A run that the data gate ended, and what was seen of it meanwhile.

    Its rows have roles out of order and hold secrets, it ran under a token, and without `retune ui`,
    so that it brought a temporary server.
    """

    said: str
    sign_in: str
    server: str  # the temporary one's address
    answers: dict[str, Answer]  # what it said while the run stood still


@pytest.fixture(scope="module")
def rejection(first, project) -> Rejection:
    rows = sums(400)
    for row in rows[:160]:
        row["conversations"].reverse()
    project.write("canary.jsonl", rows + canary.rows())
    run = subprocess.Popen(
        [RETUNE, "run", "recipe.yaml", "--set", "dataset.source=canary.jsonl"],
        cwd=project.folder,
        env=project.environment() | {"HF_TOKEN": canary.TOKEN},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    server = wait_for(lambda: temporary_server(run))
    os.kill(run.pid, signal.SIGSTOP)  # so that the server stays as long as it is looked at
    try:
        wait_for(lambda: ask(f"{server}/api/health").status == 200)
        own = (project.folder / ".retune" / "sign-in").read_text().strip()
        version = f"{server}/api/admin/version"
        answers = {
            "nobody": ask(version),
            "guessed": ask(version, sign_in="retune:guessed"),
            "own": ask(version, sign_in=own),
            "without a token": ask(f"{server}/api/flow_runs/filter", {}, sign_in=own),
            "a stranger's page": ask(version, sign_in=own, Origin=STRANGER),
        }
    finally:
        os.kill(run.pid, signal.SIGCONT)
    said, _ = run.communicate(timeout=600)
    assert run.returncode == 1
    return Rejection(said, own, server, answers)


def temporary_server(run: subprocess.Popen[str]) -> str | None:
    """Return the address at which a child of `run` listens, as soon as one does."""
    for child in psutil.Process(run.pid).children():
        for one in child.net_connections("tcp4"):
            if one.status == psutil.CONN_LISTEN:
                return f"http://{one.laddr.ip}:{one.laddr.port}"
    assert run.poll() is None, run.stdout.read()
    return None


@pytest.mark.slow  # a run more; test_check has rejections
def test_the_temporary_server_of_a_run_asks_for_the_sign_in(rejection, project):
    assert rejection.server.startswith("http://127.0.0.1:")
    assert {who: answer.status for who, answer in rejection.answers.items()} == {
        **{"nobody": 401, "guessed": 401, "own": 200},
        **{"without a token": 403, "a stranger's page": 200},
    }
    headers = {name.lower() for name in rejection.answers["a stranger's page"].headers}
    assert "access-control-allow-origin" not in headers
    # The run itself knows the sign-in.
    assert project.flow_run()[0] == "Rejected"
    assert "hook" not in rejection.said.lower()  # which process it is, is noted without a word
    assert rejection.sign_in.partition(":")[2] not in rejection.said


@pytest.mark.slow  # a run more
def test_a_broken_dataset_is_rejected_before_any_model_is_loaded(rejection, project):
    assert "Traceback" not in rejection.said
    for words in (
        "retune: dataset rejected",
        "38.6% (160 of 415 rows)",
        "roles out of order",
        "e.g. row 0",
    ):
        assert words in rejection.said
    state, message, tasks = project.flow_run()
    assert state == "Rejected"
    assert "dataset rejected" in message
    assert tasks == {"pin_inputs", "conform", "rehearse", "fetch", "screen"}
    client, parent, _ = project.newest_mlflow_run()
    assert parent.info.status == "FAILED"
    assert "dataset rejected" in parent.data.tags["retune.error"]
    assert client.list_artifacts(parent.info.run_id, "validate")
    (table,) = tables_of_verdicts(client, parent)
    failed = [row for row in table if row["result"] == "FAILED"]
    assert {row["gate"] for row in failed} == {"validate"}
    assert "validation.tolerances.roles_out_of_order" in {row["setting"] for row in failed}


@pytest.mark.slow  # a run more
def test_canaries_leave_no_trace(rejection, project):
    """A rejected run quotes rows in every place that it can; `tests/canary.py` runs a whole."""
    assert "rows have a password, key or token" in rejection.said
    assert [word for word in canary.words() if word in rejection.said] == []
    home = project.folder / ".retune"
    assert canary.traces(home, ["With this: "]) != []  # excerpts are looked into
    assert canary.traces(home, canary.words()) == []


@pytest.fixture(scope="module")
def served(first, project):
    """`retune ui` on the project's home: runs find it, and each is spared a server of its own."""
    with retune_ui(project.folder / ".retune"):
        yield project


@pytest.mark.proof  # two runs more
def test_a_changed_limit_is_judged_by_on_what_exists(served, project):
    limit = ("--set", "merging.max_kl_divergence=1e-12")
    done = project.retune("run", "recipe.yaml", *limit)
    assert done.returncode == 1
    assert "merged model rejected: 1 critical expectation failed" in done.stderr
    assert "(merging.max_kl_divergence)" in done.stderr
    _, parent, _ = project.newest_mlflow_run()
    assert (
        parent.data.metrics["merge/kl_divergence"] > 1e-12
    )  # what was measured is not thrown away
    assert parent.data.tags["retune.merge"] == "reused"
    (mark,) = (project.folder / ".retune" / "work" / "merge").glob("*/rejected.json")
    assert "merging.max_kl_divergence" in mark.read_text()
    warned = project.retune(
        "run", "recipe.yaml", *limit, "--set", "gates.severities={merge.kl_divergence: warning}"
    )
    assert warned.returncode == 0, warned.stderr
    assert "outputs were reused" in warned.stdout
    assert not mark.exists()


@pytest.mark.proof  # a command; tests/flows/test_plan.py has the rule
def test_a_changed_setting_runs_only_what_depends_on_it(first, project):
    planned = project.retune("plan", "recipe.yaml", "--set", "evaluation.max_new_tokens=9")
    assert planned.returncode == 0, planned.stderr
    words = [line.split() for line in planned.stdout.splitlines()]
    states = {w[0]: w[1] for w in words if len(w) > 1 and w[1] in ("run", "reuse", "resume")}
    assert states["train"] == "reuse"
    assert states["evaluate"] == "run"
    assert states["merge"] == "reuse"


@pytest.mark.proof  # two plans more
def test_training_all_weights_takes_room_for_gradients_and_moments(first, project):
    gibibytes = []
    for method in ("lora", "full"):
        planned = project.retune("plan", "recipe.yaml", "--set", f"training.method={method}")
        assert planned.returncode == 0, planned.stderr
        (line,) = (line for line in planned.stdout.splitlines() if "memory to train" in line)
        assert ("gradients" in line) == (method == "full")
        words = line.split()
        assert words[4] == "GiB"
        gibibytes.append(float(words[3]))
    # 2 bytes of a frozen weight; 4 of a trained one, 4 of its gradient and 8 of its moments.
    assert gibibytes[1] == pytest.approx(8 * gibibytes[0], rel=0.05)


@pytest.mark.proof  # a run more
def test_without_a_merge_there_is_nothing_to_quantize(served, project):
    planned = project.retune("plan", "recipe.yaml", "--set", "merging.save_method=lora")
    assert planned.returncode == 0, planned.stderr
    stages = {line.split()[0] for line in planned.stdout.splitlines() if line.strip()}
    assert {"train", "evaluate"} <= stages
    assert not {"merge", "convert", "calibrate", "quantize"} & stages
    assert "memory to merge" not in planned.stdout
    done = project.retune("run", "recipe.yaml", "--set", "merging.save_method=lora")
    assert done.returncode == 0, done.stderr
    ran = [line.split()[0] for line in done.stdout.splitlines() if line.endswith(" ran")]
    assert ran == ["conform", "rehearse"]  # without GGUF files they ask less
    assert "GGUF files" not in done.stdout


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("dataset.source=nowhere.jsonl", "dataset.source: nothing is at 'nowhere.jsonl'"),
        ("model.base=./nowhere", "model.base: nothing is at './nowhere'"),
        ("model.load_in_4bit=true", "set model.load_in_4bit=false"),
    ],
)
@pytest.mark.proof  # a run each
def test_a_wrong_input_is_one_clear_error(served, project, setting, expected):
    done = project.retune("run", "recipe.yaml", "--set", setting)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("retune: ")
    assert expected in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "nothing.yaml"], "no recipe file"),
        (["run", "recipe.yaml", "--set", "training.learning_rate=-1"], "greater than 0 (got -1)"),
        (
            ["plan", "recipe.yaml", "--set", "quantization.methods=[q4_k_n]"],
            "did you mean 'q4_k",
        ),
    ],
)
def test_a_wrong_command_never_starts_a_server(project, arguments, expected):
    done = project.retune(*arguments)
    assert done.returncode == 2
    assert expected in done.stderr
    assert "server" not in done.stderr
