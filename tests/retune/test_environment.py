"""What a child sees of our environment, and that it cannot ask the user anything."""

import json
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

from retune.child import run_child
from retune.llamacpp import process

SECRETS = {
    name: f"canary-{number}"
    for number, name in enumerate((
        *("PREFECT_API_KEY", "PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING"),
        *("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME"),
        *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"),
        *("OPENAI_API_KEY", "WANDB_API_KEY", "GITHUB_TOKEN", "MY_PAT", "SOME_KEY", "PGPASSWORD"),
        *("GOOGLE_APPLICATION_CREDENTIALS", "DATABASE_URL", "SLACK_WEBHOOK", "SSH_AUTH_SOCK"),
    ))
}  # fmt: skip
SECRETS["PIP_INDEX_URL"] = "https://me:canary-url@registry.example/simple"
HUB = {
    "HF_TOKEN": "canary-hub",
    "HUGGING_FACE_HUB_TOKEN": "canary-hub",
    "HF_ENDPOINT": "https://me:canary-mirror@mirror.example",
    "HTTPS_PROXY": "http://me:canary-proxy@proxy.example:8080",
}
NEEDED = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "LC_ALL": "C.UTF-8"}
OF_TRAINING = {"NCCL_DEBUG": "WARN", "TOKENIZERS_PARALLELISM": "false"}
OF_TRAINING |= {"HF_HOME": "/tmp/hf", "PYTORCH_ALLOC_CONF": "expandable_segments:True"}

CHILD = """
import os, sys
from pydantic import BaseModel
from retune.child import main

class Job(BaseModel):
    pass

def work(job):
    try:
        answer = input("Do you wish to run the custom code? [y/N] ")
    except EOFError:
        answer = None
    from huggingface_hub import get_token
    started = open("/proc/self/environ").read()
    seen = {"environment": dict(os.environ), "started": started}
    from huggingface_hub import HfApi, constants, is_offline_mode
    seen |= {"offline": is_offline_mode(), "endpoint": HfApi().endpoint, "parent": os.getppid()}
    return seen | {"answer": answer, "token": get_token()}

main(Job, work)
"""


class Job(BaseModel):
    pass


@pytest.fixture
def surroundings(monkeypatch, tmp_path) -> None:
    for name, value in (SECRETS | HUB | NEEDED | OF_TRAINING).items():
        monkeypatch.setenv(name, value)
    # As `hf auth login` leaves it.
    (tmp_path / "token").write_text("canary-login")
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "token"))


def seen_by_a_child(tmp_path: Path, **options) -> dict:
    script = tmp_path / "script.py"
    script.write_text(CHILD)
    return run_child(script, Job(), tmp_path / "log.txt", **options)


@pytest.mark.proof  # imports the libraries of models
def test_one_fork_server_serves_children_with_and_without_the_hub(surroundings, tmp_path):
    """The libraries were imported offline; who may ask the Hub asks it, and leaves nothing behind."""
    online = seen_by_a_child(tmp_path, forked=True, hub=True)
    assert online["token"] == "canary-hub"
    assert online["endpoint"] == HUB["HF_ENDPOINT"]
    assert not online["offline"]
    assert "canary" not in online["started"]
    for options in ({}, {"environment": process.environment()}):
        offline = seen_by_a_child(tmp_path, forked=True, **options)
        assert offline["parent"] == online["parent"]
        assert offline["token"] is None
        assert offline["offline"]
        assert "canary" not in json.dumps(offline)


@pytest.mark.parametrize("forked", [False, True])
def test_a_child_sees_no_secret_and_no_token(one_fork_server, surroundings, tmp_path, forked):
    seen = seen_by_a_child(tmp_path, forked=forked)
    assert "canary" not in json.dumps(seen)
    assert seen["token"] is None
    needed = NEEDED | OF_TRAINING
    assert {name: seen["environment"].get(name) for name in needed} == needed


@pytest.mark.parametrize("forked", [False, pytest.param(True, marks=pytest.mark.proof)])
def test_a_child_that_works_alone_is_told_of_no_other_processes(monkeypatch, tmp_path, forked):
    """A rank of two would have it wait for the other, which never comes."""
    told = {
        **{"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"},
        **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500", "NODE_RANK": "0", "NNODES": "1"},
        **{"TORCHELASTIC_RUN_ID": "none", "OMPI_COMM_WORLD_SIZE": "2", "PMI_SIZE": "2"},
        **{"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"},
    }
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    seen = seen_by_a_child(tmp_path, forked=forked)["environment"]
    assert not told.keys() & seen.keys()
    together = seen_by_a_child(tmp_path, forked=forked, env=told)["environment"]
    assert told.items() <= together.items()


def test_a_child_that_downloads_sees_the_hubs_token_alone(surroundings, tmp_path):
    seen = seen_by_a_child(tmp_path, hub=True)
    canaries = {name for name, value in seen["environment"].items() if "canary" in value}
    assert canaries == set(HUB)
    assert seen["token"] == "canary-hub"
    assert "HF_HUB_OFFLINE" not in seen["environment"]


@pytest.mark.parametrize("forked", [False, True])
def test_a_child_gets_no_answer_from_the_terminal(one_fork_server, surroundings, tmp_path, forked):
    assert seen_by_a_child(tmp_path, forked=forked)["answer"] is None


def test_a_program_of_llamacpp_sees_what_it_needs(surroundings):
    code = "import json, os; print(json.dumps(dict(os.environ)))"
    environment = json.loads(process.run([sys.executable, "-c", code]).stdout)
    assert "canary" not in json.dumps(environment)
    assert {name: environment.get(name) for name in NEEDED} == NEEDED
    assert environment["HF_HUB_OFFLINE"] == environment["HF_HUB_DISABLE_IMPLICIT_TOKEN"] == "1"
