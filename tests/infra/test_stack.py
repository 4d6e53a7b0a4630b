"""What compose.yaml describes, run for real without containers: the whole line, on PostgreSQL and S3."""

import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.flows.servers import ask, free_port, wait_for
from tests.flows.test_line import Project
from tests.infra import stack as stacks
from tests.infra.stack import Stack, query

pytestmark = [pytest.mark.proof, pytest.mark.timeout(2400)]
PREFECT = Path(sys.executable).with_name("prefect")
LISTER = """
import json, pathlib, sys, boto3
pages = boto3.client("s3").get_paginator("list_objects_v2").paginate(Bucket="mlflow")
keys = [entry["Key"] for page in pages for entry in page.get("Contents", ())]
pathlib.Path(sys.argv[1]).write_text(json.dumps(keys))
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    """The servers, the work pool and the deployments, as the service `deploy` makes them."""
    with stacks.running(tmp_path_factory.mktemp("stack")) as running:
        shell = running.start("deploy", "sh", "-c", _deploying(running))
        assert shell.wait(300) == 0, running.log("deploy")
        yield running


def _deploying(stack: Stack) -> str:
    from tests.infra.deployed import compose

    words = compose()["services"]["deploy"]["command"][2]
    return words.replace("prefect ", f"{PREFECT} ")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> dict[str, Any]:
    """The small line, with paths that hold wherever a worker runs."""
    project = Project(tmp_path_factory.mktemp("project"))
    recipe = yaml.safe_load((project.folder / "recipe.yaml").read_text())
    recipe["model"]["base"] = str(project.folder / "base")
    recipe["dataset"]["source"] = str(project.folder / "good.jsonl")
    recipe["validation"] = {}  # else the section of the deployment
    return recipe


def api(stack: Stack, path: str, body: Any = None) -> Any:
    """Ask Prefect's API as its pages do."""
    client = ask(f"{stack.url('prefect')}/api/csrf-token?client=test", sign_in=stack.sign_in)
    answer = ask(
        f"{stack.url('prefect')}/api/{path}", body, sign_in=stack.sign_in,
        Prefect_Csrf_Token=json.loads(client.body)["token"], Prefect_Csrf_Client="test",
    )  # fmt: skip
    assert answer.status < 300, answer
    return json.loads(answer.body)


def begin(stack: Stack, recipe: dict[str, Any]) -> str:
    """Start a run of the deployment `demo` with another recipe; returns its id."""
    (demo,) = api(stack, "deployments/filter", {"deployments": {"name": {"any_": ["demo"]}}})
    return api(stack, f"deployments/{demo['id']}/create_flow_run", {"parameters": recipe})["id"]


def state(stack: Stack, run: str) -> dict[str, Any]:
    return api(stack, f"flow_runs/{run}")["state"]


@pytest.fixture(scope="module")
def finished(stack, recipe) -> str:
    """A run of a bare `prefect worker`, to its end."""
    worker = stack.start(
        "worker", str(PREFECT), "worker", "start", "--pool", "retune", "--limit", "1"
    )
    try:
        run = begin(stack, recipe)
        final = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
        wait_for(lambda: state(stack, run)["type"] in final or worker.poll() is not None, 1800)
    finally:
        stacks.end(worker)
    ended = state(stack, run)
    assert ended["type"] == "COMPLETED", (ended, stack.log("worker"))
    return run


def test_nobody_is_let_in_without_a_sign_in(stack):
    prefect = f"{stack.url('prefect')}/api/admin/version"
    mlflow = f"{stack.url('mlflow')}/api/2.0/mlflow/experiments/search?max_results=1"
    assert [ask(url).status for url in (prefect, mlflow)] == [401, 401]
    assert ask(prefect, sign_in="retune:guess").status == 401
    assert ask(mlflow, sign_in="retune:guess").status == 401
    assert ask(prefect, sign_in=stack.sign_in).status == 200
    assert ask(mlflow, sign_in=stack.mlflow_sign_in).status == 200
    assert ask(f"{stack.url('objects')}/mlflow?list-type=2").status == 403


def test_each_role_reaches_its_own_databases_alone(stack):
    assert query(stack, "prefect", "prefect", "select 1") == "1"
    assert query(stack, "mlflow", "mlflow_users", "select count(*) from users") == "1"
    assert "permission denied" in query(stack, "mlflow", "prefect", "select 1")
    assert "permission denied" in query(stack, "prefect", "mlflow", "select 1")


def test_the_line_runs_to_its_end_on_the_servers(stack, finished):
    counted = query(
        stack, "prefect", "prefect", "select count(*) from flow_run where state_type = 'COMPLETED'"
    )
    assert counted == "1"
    home = stack.folder / "home"
    assert not (home / "mlflow.db").exists()
    assert not (home / "prefect" / "prefect.db").exists()
    losses = query(
        stack, "mlflow", "mlflow", "select count(*) from metrics where key = 'train/loss'"
    )
    assert losses == "4"
    tag = "select count(*) from tags where key = 'prefect.flow_run_id' and value = '{}'"
    assert query(stack, "mlflow", "mlflow", tag.format(finished)) >= "1"


def test_artifacts_are_in_the_store_and_mlflow_gives_them_out(stack, finished):
    out = stack.folder / "keys"
    lister = stack.start(
        "mlflow", sys.executable, "-c", LISTER, str(out), AWS_ENDPOINT_URL=stack.url("objects")
    )
    assert lister.wait(60) == 0, stack.log("mlflow")
    keys = json.loads(out.read_text())
    (verdicts,) = (key for key in keys if key.endswith("artifacts/verdicts.json"))
    assert verdicts.startswith("artifacts/")
    path = verdicts.removeprefix("artifacts/")
    path = f"{stack.url('mlflow')}/api/2.0/mlflow-artifacts/artifacts/{path}"
    assert ask(path).status == 401
    assert json.loads(ask(path, sign_in=stack.mlflow_sign_in).body)


def test_no_secret_is_seen_among_the_processes(stack, finished):
    import psutil

    secrets = [stack.secret("mlflow_password"), stack.sign_in.partition(":")[2]]
    for name in ("prefect_pgpass", "mlflow_pgpass"):
        secrets.append(stack.secret(name).rpartition(":")[2])
    assert all(len(secret) >= 32 for secret in secrets)
    for process in psutil.process_iter():
        try:
            line = " ".join(process.cmdline())
        except psutil.Error:
            continue
        assert not [secret for secret in secrets if secret in line]
    logs = "".join(path.read_text(errors="replace") for path in stack.folder.glob("*.log"))
    assert not [secret for secret in secrets if secret in logs]


def test_a_worker_that_is_told_to_end_leaves_a_checkpoint(stack, recipe):
    """As `docker compose stop`, systemd and Slurm tell it; the next worker goes on from there."""
    endless = recipe | {"name": "endless", "training": recipe["training"] | {"max_steps": 100_000}}
    home = stack.folder / "home"
    worker_port = free_port()
    worker = stack.start("worker", PREFECT_WORKER_WEBSERVER_PORT=str(worker_port))
    try:
        health = f"http://127.0.0.1:{worker_port}/health"
        wait_for(lambda: stacks.answers(health) or worker.poll() is not None)
        run = begin(stack, endless)
        steps = lambda: sum(  # noqa: E731
            path.read_text().count("\n")
            for path in home.glob("work/train/*.partial/training_log.jsonl")
        )
        wait_for(lambda: steps() > 3 or worker.poll() is not None, 900)
        began = time.monotonic()
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(180) == 0, stack.log("worker")
        took = time.monotonic() - began
    finally:
        stacks.end(worker)
    assert [path for path in home.glob("work/train/*.partial/**/checkpoint-*") if path.is_dir()]
    assert state(stack, run)["type"] in ("CRASHED", "SCHEDULED"), (state(stack, run), took)
    assert "to write its checkpoint" in stack.log("worker")
