"""Who serves, from run to run, as a person sees it: `retune run` with servers of MLflow beside it.

A good candidate, the same again, a poisoned one, a better one, then back, and never forward by itself.
The stages are made with the first server and reused with the second: what differs is where MLflow is.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.flows.colours import IMPROVED, POISONED, Colours
from tests.flows.servers import free_port, wait_for
from tests.infra import stack as stacks

pytestmark = [pytest.mark.proof, pytest.mark.timeout(2400)]


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Colours:
    return Colours(tmp_path_factory.mktemp("project"))


@contextmanager
def on_sqlite(folder: Path) -> Iterator[dict[str, str]]:
    """Run MLflow's own server, as anybody starts it; gives the variables by which runs find it."""
    port = free_port()
    with (folder / "mlflow.log").open("wb") as log:
        server = subprocess.Popen(
            [
                Path(sys.executable).with_name("mlflow"), "server", "--workers", "1",
                "--host", "127.0.0.1", "--port", str(port),
                "--backend-store-uri", f"sqlite:///{folder / 'server.db'}",
                "--artifacts-destination", str(folder / "artifacts"),
            ],
            env=Colours.environment() | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=log, stderr=subprocess.STDOUT, cwd=folder, start_new_session=True,
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: stacks.answers(f"{url}/health"))
        yield {"MLFLOW_TRACKING_URI": url}
    finally:
        stacks.end(server)


@contextmanager
def on_postgresql(folder: Path) -> Iterator[dict[str, str]]:
    """Run PostgreSQL and MLflow with a sign-in, as compose.yaml has them, but for the S3 store."""
    with stacks.databases(folder) as stack:
        command = [
            f"--artifacts-destination={folder / 'artifacts'}"
            if word.startswith("--artifacts-destination")
            else word
            for word in stack.command("mlflow")
        ]
        server = stack.start("mlflow", *command)
        try:
            wait_for(lambda: stacks.answers(f"{stack.url('mlflow')}/health"))
            user, _, password = stack.mlflow_sign_in.partition(":")
            yield {
                "MLFLOW_TRACKING_URI": stack.url("mlflow"),
                "MLFLOW_TRACKING_USERNAME": user,
                "MLFLOW_TRACKING_PASSWORD": password,
            }
            runs = "select count(*) from runs"
            assert int(stacks.query(stack, "mlflow", "mlflow", runs)) >= 5
        finally:
            stacks.end(server)


class Seen:
    """Commands of a project, by one server of MLflow."""

    def __init__(self, project: Colours, server: dict[str, str]) -> None:
        self.project = project
        self.server = server

    def run(self, *settings: str, code: int = 0) -> tuple[str, str]:
        """Run the line; return the state in which it ended and the sentence that says why."""
        done = self.project.retune("run", "recipe.yaml", *settings, **self.server)
        assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
        assert "Traceback" not in done.stderr
        return self.project.flow_run()[:2]

    def tell(self, *command: str) -> str:
        done = self.project.retune(*command, **self.server)
        assert done.returncode == 0, done.stderr
        return done.stdout

    @property
    def log(self) -> list[tuple[str, int | None]]:
        """What was decided, and which version served from then on."""
        entries = json.loads(self.tell("history", "colours", "--json"))
        return [(entry["kind"], entry["serving"]) for entry in entries]


@pytest.mark.parametrize("server", [on_sqlite, on_postgresql])
def test_who_serves_from_run_to_run(project, tmp_path_factory, server):
    with server(tmp_path_factory.mktemp("server")) as variables:
        seen = Seen(project, variables)

        assert seen.run() == ("Promoted", _starting("colours/1 serves: expected: better than the"))
        assert seen.run() == ("Equivalent", _starting("colours/1 serves already"))

        state, why = seen.run(*POISONED, code=1)
        assert state == "Rejected"
        assert "no worse than the champion, version 1 by loss (anchor)" in why
        assert "on the rows that the champion was judged by" in why
        assert "promotion.anchor_waiver" in why
        assert seen.log == [("promote", 1)]

        assert seen.run(*IMPROVED) == ("Promoted", _starting("colours/3 serves instead of"))
        assert seen.log[-1] == ("promote", 3)

        said = seen.tell("rollback", "colours", "--reason", "answers in rhyme")
        assert "colours/1 serves" in said
        assert "colours/3 is barred" in said
        assert seen.run(*IMPROVED) == ("Barred", _starting("colours/3 was rolled back: answers in"))
        assert seen.log == [("promote", 1), ("promote", 3), ("rollback", 1)]

        now = datetime.now(UTC).isoformat()
        assert "colours/1 since" in seen.tell("who-served", now, "colours")
        seen.tell("promote", "colours", "3", "--unbar", "--reason", "rhymes are wanted")
        assert seen.run(*IMPROVED) == ("Equivalent", _starting("colours/3 serves already"))


class _starting(str):  # noqa: N801  (it reads as a word in what is compared)
    """A text that equals those that begin with it."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and str(other).startswith(str(self))

    __hash__ = str.__hash__
