"""The server of one run: whose it is, what it lets through, and that it never stays."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

from tests.flows.servers import ROOT, environment, wait_for

pytestmark = pytest.mark.timeout(600)

BEGIN = """
import json, os, signal, sys
from flows import local, temporary_server
local.configure()
server = temporary_server.start()
"""


def script(body: str, home: Path, **variables: str) -> "subprocess.Popen[str]":
    """Start a script, in a session of its own, that has begun to start a server."""
    return subprocess.Popen(
        [sys.executable, "-c", BEGIN + textwrap.dedent(body)],
        cwd=home.parent,
        env=environment(home) | {"PYTHONPATH": str(ROOT)} | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def flow_runs(home: Path) -> list[tuple[str, str]]:
    """Return name and state of all flow runs, from Prefect's database."""
    with sqlite3.connect(home / "prefect" / "prefect.db") as database:
        return database.execute("select name, state_name from flow_run").fetchall()


def logged(home: Path) -> set[str]:
    with sqlite3.connect(home / "prefect" / "prefect.db") as database:
        return {message for (message,) in database.execute("select message from log")}


# The first run of test_line.py has such a server, too; that nothing of it is missing is a proof.
@pytest.fixture(scope="module", params=[pytest.param("hello", marks=pytest.mark.proof)])
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, dict[str, object]]:
    """A home folder after a flow over its first temporary server, what was said, and settings."""
    home = tmp_path_factory.mktemp("temporary") / "home"
    body = """
        from prefect import flow, get_run_logger
        from prefect.blocks.system import Secret

        @flow(log_prints=True)
        def hello():
            for number in range(300):
                get_run_logger().info("line %d", number)

        server.use()
        local.quieten()
        hello(return_state=True)
        try:
            Secret.load("absent", _sync=True)
        except ValueError as error:
            absent = str(error)
        print(json.dumps({
            "session": os.getsid(server.process.pid), "pid": server.process.pid, "absent": absent,
        }))
    """
    process = script(body, home)
    said, _ = process.communicate()
    assert process.returncode == 0, said
    return home, said, json.loads(said.splitlines()[-1])


def test_nothing_is_lost_when_it_ends_with_the_run(done):
    home, said, _ = done
    assert [state for _, state in flow_runs(home)] == ["Completed"]
    assert {f"line {number}" for number in range(300)} <= logged(home)
    for words in ("Traceback", "Unable to connect", "rror", "View at", "temporary server"):
        assert words not in said


def test_it_ends_with_the_run_and_has_a_session_of_its_own(done):
    _, _, facts = done
    assert facts["session"] == facts["pid"]
    assert not psutil.pid_exists(facts["pid"])


def test_what_it_left_out_is_not_noted_as_done(done):
    """Else the pages of `retune ui` would offer no Secret block."""
    home, _, facts = done
    assert not (home / "prefect" / "memo_store.toml").exists()
    with sqlite3.connect(home / "prefect" / "prefect.db") as database:
        assert database.execute("select count(*) from block_type").fetchone() == (0,)
    assert "absent" in facts["absent"]


def test_its_log_is_with_the_others(done):
    home, _, _ = done
    assert (home / "logs" / "temporary-server.log").is_file()


@pytest.mark.parametrize(
    "up",
    [pytest.param(True, id="up", marks=pytest.mark.proof), pytest.param(False, id="coming up")],
)
def test_it_ends_with_a_run_that_is_killed(tmp_path: Path, up: bool) -> None:
    wait = "server.use()" if up else ""
    run = script(f"{wait}\nprint(server.process.pid, flush=True)\nsignal.pause()", tmp_path / "h")
    server = psutil.Process(int(run.stdout.readline()))
    run.kill()
    run.wait()
    wait_for(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE)


@pytest.mark.proof
def test_ctrl_c_reaches_the_run_alone_which_then_reports_it(tmp_path: Path) -> None:
    body = """
        from prefect import flow

        @flow
        def interrupted():
            print(server.process.pid, flush=True)
            signal.pause()

        server.use()
        interrupted()
    """
    run = script(body, tmp_path / "home")
    while not (line := run.stdout.readline()).strip().isdigit():
        assert line, "it ended before"
    os.killpg(run.pid, signal.SIGINT)
    said, _ = run.communicate()
    assert "Unable to connect" not in said
    assert [state for _, state in flow_runs(tmp_path / "home")] == ["Crashed"]
    assert not psutil.pid_exists(int(line))


@pytest.mark.proof
def test_one_that_does_not_come_up_is_one_error_with_the_end_of_its_log(tmp_path: Path) -> None:
    nowhere = f"sqlite+aiosqlite:///{tmp_path}/no/such/folder/prefect.db"
    body = """
        from flows.servers import ServerError
        try:
            server.use()
        except ServerError as error:
            print("one error:", error)
    """
    run = script(body, tmp_path / "home", PREFECT_API_DATABASE_CONNECTION_URL=nowhere)
    said, _ = run.communicate()
    assert run.returncode == 0, said
    assert "one error: temporary-server did not come up" in said
    assert "unable to open database file" in said
    assert "Traceback" not in said
