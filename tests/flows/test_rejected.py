"""A run that the data gate ends, and what is seen of it meanwhile and afterwards.

One run for all of it: its rows have roles out of order and hold secrets, it runs under a token, and
without `retune ui`, so that it brings a temporary server.
"""

import os
import signal
import subprocess
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from tests import canary
from tests.flows.servers import Answer, ask, wait_for
from tests.flows.test_line import RETUNE, Project, sums, tables_of_verdicts

pytestmark = pytest.mark.timeout(900)
STRANGER = "http://stranger.example"


class Rejection(NamedTuple):
    project: Project
    home: Path
    said: str
    sign_in: str
    server: str  # the temporary one's address
    answers: dict[str, Answer]  # what it said while the run stood still


@pytest.fixture(scope="module")
def rejection(tmp_path_factory: pytest.TempPathFactory) -> Rejection:
    project = Project(tmp_path_factory.mktemp("project"))
    rows = sums(400)
    for row in rows[:160]:
        row["conversations"].reverse()
    project.write("bad.jsonl", rows + canary.rows())
    run = subprocess.Popen(
        [RETUNE, "run", "recipe.yaml", "--set", "dataset.source=bad.jsonl"],
        cwd=project.folder,
        env=project.environment() | {"HF_TOKEN": canary.TOKEN},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    home = project.folder / ".retune"
    server = wait_for(lambda: temporary_server(run))
    os.kill(run.pid, signal.SIGSTOP)  # so that the server stays as long as it is looked at
    try:
        wait_for(lambda: ask(f"{server}/api/health").status == 200)
        own = (home / "sign-in").read_text().strip()
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
    return Rejection(project, home, said, own, server, answers)


def temporary_server(run: subprocess.Popen[str]) -> str | None:
    """Return the address at which a child of `run` listens, as soon as one does."""
    for child in psutil.Process(run.pid).children():
        for one in child.net_connections("tcp4"):
            if one.status == psutil.CONN_LISTEN:
                return f"http://{one.laddr.ip}:{one.laddr.port}"
    assert run.poll() is None, run.stdout.read()
    return None


def test_the_temporary_server_of_a_run_asks_for_the_sign_in(rejection: Rejection) -> None:
    assert rejection.server.startswith("http://127.0.0.1:")
    assert {who: answer.status for who, answer in rejection.answers.items()} == {
        **{"nobody": 401, "guessed": 401, "own": 200},
        **{"without a token": 403, "a stranger's page": 200},
    }
    headers = {name.lower() for name in rejection.answers["a stranger's page"].headers}
    assert "access-control-allow-origin" not in headers
    # The run itself knows the sign-in.
    assert rejection.project.flow_run()[0] == "Failed"
    assert "hook" not in rejection.said.lower()  # which process it is, is noted without a word
    assert rejection.sign_in.partition(":")[2] not in rejection.said


def test_a_broken_dataset_is_rejected_before_any_model_is_loaded(rejection: Rejection) -> None:
    assert "Traceback" not in rejection.said
    for words in (
        "retune: dataset rejected",
        "38.6% (160 of 415 rows)",
        "roles out of order",
        "e.g. row 0",
    ):
        assert words in rejection.said
    state, message, tasks = rejection.project.flow_run()
    assert state == "Failed"
    assert "dataset rejected" in message
    assert tasks == {"pin_inputs", "conform", "rehearse", "fetch", "screen"}
    client, parent, _ = rejection.project.newest_mlflow_run()
    assert parent.info.status == "FAILED"
    assert "dataset rejected" in parent.data.tags["retune.error"]
    assert client.list_artifacts(parent.info.run_id, "validate")
    (table,) = tables_of_verdicts(client, parent)
    failed = [row for row in table if row["result"] == "FAILED"]
    assert {row["gate"] for row in failed} == {"validate"}
    assert "validation.tolerances.roles_out_of_order" in {row["setting"] for row in failed}


def test_canaries_leave_no_trace(rejection: Rejection) -> None:
    """A rejected run quotes rows in every place that it can; `tests/canary.py` runs a whole."""
    assert "rows have a password, key or token" in rejection.said
    assert [word for word in canary.words() if word in rejection.said] == []
    assert canary.traces(rejection.home, ["With this: "]) != []  # excerpts are looked into
    assert canary.traces(rejection.home, canary.words()) == []
