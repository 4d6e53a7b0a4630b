"""`retune ui` as a person starts and stops it, and what a schedule does meanwhile."""

import configparser
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

import psutil
import pytest
from prefect import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_URL,
    PREFECT_CLIENT_CSRF_SUPPORT_ENABLED,
    temporary_settings,
)
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

import flows.ui
from flows import notifications
from flows.runs_at_work import runs_of
from retune import access
from retune.errors import RetuneError
from retune.processes import name_of, this_process
from tests.databases import furnish
from tests.flows.notified import COURSES, KEPT, NUMBERS, endings, receiving, take_their_course
from tests.flows.servers import (
    PATIENCE,
    RETUNE,
    ROOT,
    ask,
    environment,
    free_port,
    retune_ui,
    wait_for,
)
from tests.flows.test_line import sums
from tests.tasks.conftest import make_base

# Three servers start, on a loaded machine.
pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]
STRANGER = "http://stranger.example"


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    with retune_ui(furnish(tmp_path_factory.mktemp("home")), "--mlflow-sign-in") as running:
        yield running


def test_both_uis_come_up_with_the_deployments(servers):
    assert ask(f"{servers.mlflow}/health").body == b"OK"
    deployments = {entry["name"]: entry for entry in servers.api("deployments/filter", {})}
    assert set(deployments) == {
        *("demo", "smollm2", "llama31-8b-finetome", "llama31-8b-finetome-10k"),
    }
    assert "(/v2/artifacts/key/in-service-demo)" in deployments["demo"]["description"]
    assert deployments["demo"]["description"].startswith("A small model on made-up conversations")
    assert [s["schedule"]["cron"] for s in deployments["llama31-8b-finetome"]["schedules"]] == [
        "0 2 * * 0"
    ]


class TestNobodyElseDrivesIt:
    @pytest.mark.parametrize("host", [None, "stranger.example"])
    @pytest.mark.parametrize(
        "sign_in",
        [
            "retune:guessed",
            *(pytest.param(s, marks=pytest.mark.proof) for s in (None, "admin:pass")),
        ],
    )
    def test_prefect_tells_a_stranger_nothing(self, servers, host, sign_in):
        headers = {"Host": host} if host else {}
        for path in (
            "admin/version",
            "admin/settings",
            "csrf-token?client=x",
            "docs",
            "x/../ready",
        ):
            answer = ask(f"{servers.prefect}/api/{path}", sign_in=sign_in, **headers)
            assert answer.status == 401, path
            assert b"Unauthorized" in answer.body
        for page in ("/", "/ui-settings", "/v2/login", "/docs", "/openapi.json"):
            answer = ask(f"{servers.prefect}{page}", sign_in=sign_in, **headers)
            assert servers.sign_in.partition(":")[2].encode() not in answer.body

    @pytest.mark.parametrize("path", ["events/in", "events/out", "logs/out"])
    @pytest.mark.parametrize("token", [None, "retune:guessed"])
    def test_prefects_streams_close(self, servers, path, token):
        address = servers.prefect.replace("http", "ws") + f"/api/{path}"
        with connect(address, subprotocols=["prefect"], open_timeout=60) as stream:
            stream.send(json.dumps({"type": "auth", "token": token}))
            with pytest.raises(ConnectionClosed):
                stream.recv(timeout=60)

    def test_a_web_page_gets_no_answer_and_changes_nothing(self, servers):
        api = f"{servers.prefect}/api"
        own = {"sign_in": servers.sign_in}
        for origin, allowed in ((STRANGER, None), ("null", None), (servers.prefect,) * 2):
            answer = ask(f"{api}/admin/version", Origin=origin, **own)
            assert answer.headers.get("access-control-allow-origin") == allowed
        # What a page of a stranger could send with a password that the browser keeps.
        answer = ask(f"{api}/flow_runs/filter", {}, Origin=STRANGER, **own)
        assert answer.status == 403
        assert b"CSRF" in answer.body

    def test_mlflow_asks_too_and_knows_its_own_name(self, servers):
        api = f"{servers.mlflow}/api/2.0/mlflow/experiments/search?max_results=5"
        for sign_in in (None, "retune:guessed"):
            assert ask(api, sign_in=sign_in).status == 401
        own = {"sign_in": servers.sign_in}
        assert ask(api, **own).status == 200
        assert ask(api, Host="stranger.example", **own).status == 403
        create = f"{servers.mlflow}/api/2.0/mlflow/experiments/create"
        # The second is what somebody else's notebook on this machine would be.
        for origin in (STRANGER, "http://localhost:8888", "null"):
            answers = (
                ask(api, Origin=origin, **own),
                ask(create, {"name": "x"}, Origin=origin, **own),
            )
            for answer in answers:
                assert answer.status == 403
                assert "access-control-allow-origin" not in {
                    name.lower() for name in answer.headers
                }
        assert ask(create, {"name": "ours"}, Origin=servers.mlflow, **own).status == 200

    def test_the_password_is_in_one_file_that_only_its_user_reads(self, servers):
        file = servers.home / "sign-in"
        assert file.stat().st_mode & 0o777 == 0o600
        assert f"the line in {file}" in servers.printed  # not the password: this is no terminal
        secret = servers.sign_in.partition(":")[2]
        assert len(secret) >= 32
        for path in servers.home.rglob("*"):
            if path.is_file() and path != file:
                assert secret.encode() not in path.read_bytes(), path
        for process in [servers.process.pid, *(child.pid for child in servers.children)]:
            command = subprocess.run(
                ["ps", "-o", "args=", "-p", str(process)], capture_output=True, text=True
            )
            assert secret not in command.stdout


@pytest.mark.skipif(not shutil.which("chromium"), reason="no Chromium here")
def test_who_follows_the_printed_instruction_is_let_in(servers):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        options = {"executable_path": shutil.which("chromium"), "args": ["--no-sandbox"]}
        browser = play.chromium.launch(**options)
        page = browser.new_page()
        page.set_default_timeout(90_000)
        page.goto(servers.prefect)
        page.fill("input[type=password]", "retune:guessed")
        page.keyboard.press("Enter")
        page.wait_for_selector("text=Invalid credentials")
        page.fill("input[type=password]", servers.sign_in)
        page.keyboard.press("Enter")
        page.wait_for_url("**/dashboard*")
        page.goto(f"{servers.prefect}/v2/deployments")
        page.click("text=llama31-8b-finetome-10k")
        # Its pages can also change something, by their token against forged requests.
        page.get_by_role("button", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Quick run").click()
        # What the page shows for a moment may be gone before a busy machine looks.
        with page.expect_response("**/create_flow_run") as created:
            page.get_by_role("dialog").get_by_role("button", name="Run").click()
        assert created.value.status == 201
        # Before the worker takes it: an 8B model is not for here.
        stop = {"state": {"type": "CANCELLED"}, "force": True}
        servers.api(f"flow_runs/{created.value.json()['id']}/set_state", stop)
        name, _, password = servers.sign_in.partition(":")
        with browser.new_context(
            http_credentials={"username": name, "password": password}
        ) as signed_in:
            mlflow = signed_in.new_page()
            mlflow.goto(servers.mlflow, timeout=90_000)
            mlflow.wait_for_selector("text=Experiments", timeout=90_000)
        browser.close()


def refusal(home, **changes: str) -> str:
    """Return what `retune ui` says when it does not start."""
    options = [part for name, value in changes.items() for part in (f"--{name}-port", value)]
    done = subprocess.run(
        [RETUNE, "ui", *options],
        cwd=ROOT,
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    return done.stderr


def test_the_server_of_somebody_else_gets_nothing(servers, tmp_path):
    port = servers.prefect.rpartition(":")[2]
    said = refusal(tmp_path / "home", prefect=port, mlflow=str(free_port()))
    assert f"port {port} is not free" in said
    assert "nothing was started or deployed" in said
    assert "--prefect-port" in said
    port = servers.mlflow.rpartition(":")[2]
    said = refusal(tmp_path / "home", prefect=str(free_port()), mlflow=port)
    assert f"port {port} is not free" in said
    assert "--mlflow-port" in said
    assert not (tmp_path / "home" / "logs").exists()  # nothing ever ran


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "::1", "::"])
def test_a_port_is_free_only_if_it_is_on_every_address(address):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as stranger:
        if family == socket.AF_INET6:
            stranger.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            stranger.bind((address, 0))
        except OSError:
            pytest.skip("no IPv6 here")
        stranger.listen()
        port = stranger.getsockname()[1]
        with pytest.raises(RetuneError, match=f"port {port} is not free.*--prefect-port"):
            flows.ui._require_free("--prefect-port", port)
    flows.ui._require_free("--prefect-port", port)


def test_one_home_is_served_once(servers):
    said = refusal(servers.home, prefect=str(free_port()), mlflow=str(free_port()))
    assert "runs already" in said
    assert servers.prefect in said


@pytest.mark.parametrize(
    "text",
    [
        "\udcff",
        "{}",
        '{"process": "x", "started": []}',
        '{"process": "host one two", "started": [1]}',
        '{"process": "HOST 99999999999999999999 1", "started": ["x", null]}',
    ],
)
def test_a_damaged_note_of_an_earlier_start_is_no_obstacle(monkeypatch, tmp_path, text):
    monkeypatch.setenv("RETUNE_HOME", str(tmp_path))
    note = tmp_path / "ui.json"
    note.write_text(text.replace("HOST", socket.gethostname()), errors="surrogateescape")
    flows.ui._end_leftovers()


def test_a_server_that_was_left_is_told_to_end(monkeypatch, tmp_path):
    """Killed, it would leave the processes that it has started, which hold its port."""
    for name in ("RETUNE_HOME", "PREFECT_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    told = "import pathlib, signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit("
    told += "pathlib.Path(sys.argv[1]).touch())); print(1, flush=True); time.sleep(600)"
    server = subprocess.Popen(
        [sys.executable, "-c", told, str(tmp_path / "told")],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    server.stdout.readline()
    ended = {"process": f"{socket.gethostname()} 1 0", "started": [name_of(server.pid)]}
    (tmp_path / "ui.json").write_text(json.dumps(ended))
    flows.ui._end_leftovers()
    assert server.wait(60) == 0
    assert (tmp_path / "told").exists()


def test_the_servers_of_the_home_that_this_one_is_a_copy_of_are_not_ours(monkeypatch, tmp_path):
    other = subprocess.Popen(["sleep", "60"], start_new_session=True)
    record = {"process": this_process(), "started": [name_of(other.pid)], "prefect_port": 1}
    monkeypatch.setenv("RETUNE_HOME", str(tmp_path))
    for first in (this_process(), "gone 1 1"):
        record |= {"process": first, "home": str(tmp_path / "other")}
        (tmp_path / "ui.json").write_text(json.dumps(record))
        assert access.ui_record("prefect_port")[0] is None
        flows.ui._end_leftovers()
    assert other.poll() is None
    other.kill()
    other.wait()


def test_a_home_with_a_percent_sign_has_a_sign_in_for_mlflow(monkeypatch, tmp_path):
    monkeypatch.setenv("RETUNE_HOME", str(tmp_path / "50% %41"))
    (tmp_path / "50% %41").mkdir()
    config = configparser.ConfigParser()
    config.read(flows.ui._mlflow_sign_in()["MLFLOW_AUTH_CONFIG_PATH"])  # as MLflow does
    # Else a password is checked at each request, which takes a third of a second.
    assert config["mlflow"].getint("auth_cache_ttl_seconds") > 0
    assert config["mlflow"]["database_uri"].startswith(f"sqlite:///{tmp_path}/50% %41/mlflow-users")


def test_ctrl_c_while_the_leftovers_end_is_obeyed(tmp_path):
    """A run that a killed `retune ui` left may take its time; who waits for it may not want to."""
    busy = (
        "import signal, time; signal.signal(signal.SIGTERM, lambda *_: None); print(1, flush=True)"
    )
    leftover = subprocess.Popen(
        [sys.executable, "-c", f"{busy}; time.sleep(600)"],
        env=os.environ | {"PREFECT__FLOW_RUN_ID": "left"},
        stdout=subprocess.PIPE,
    )  # below this process, which stands for the worker
    leftover.stdout.readline()
    ended = {"process": f"{socket.gethostname()} 1 0", "prefect_port": 1, "started": []}
    (tmp_path / "ui.json").write_text(json.dumps(ended | {"started": [this_process()]}))
    start = textwrap.dedent("""
        import signal, sys
        from flows import ui
        ui.end = lambda process: False  # the worker is the test
        signal.signal(signal.SIGINT, ui._interrupted)
        ui._end_leftovers()
        print("goes on")
    """)
    with subprocess.Popen(
        [sys.executable, "-c", start],
        cwd=ROOT,
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        text=True,
    ) as ui:
        assert "Waiting for the run at work" in ui.stdout.readline()
        time.sleep(1)
        ui.send_signal(signal.SIGINT)
        assert ui.wait(60) == 0
        assert "goes on" not in ui.stdout.read()
    leftover.kill()
    leftover.wait()


def test_the_runs_of_a_killed_worker_are_found(monkeypatch, tmp_path):
    worker = subprocess.Popen(["true"])
    worker.wait()
    ours, theirs = str(tmp_path / "prefect"), str(tmp_path / "another" / "prefect")
    run = os.environ | {"PREFECT__FLOW_RUN_ID": "orphan"}
    with (
        subprocess.Popen(["sleep", "600"], env=run | {"PREFECT_HOME": ours}) as orphan,
        subprocess.Popen(["sleep", "600"], env=run | {"PREFECT_HOME": theirs}) as strange,
        subprocess.Popen(["sleep", "600"], env=os.environ | {"PREFECT_HOME": ours}) as no_run,
    ):
        monkeypatch.setenv("PREFECT_HOME", ours)
        wait_for(lambda: psutil.Process(orphan.pid).name() == "sleep")
        found = [process.pid for process in runs_of(worker.pid, orphans=True)]
        for process in (orphan, strange, no_run):
            process.kill()
    assert found == [orphan.pid]


@pytest.mark.proof  # it waits for looks, and for a run to be old enough
class TestWatchdog:
    """A second start is a minute later at the earliest: the worker has none of these runs by then."""

    def crashed(self, servers, resumed: int, name: str = "llama31-8b-finetome-10k") -> str:
        """Make a run that crashed, and was begun again `resumed` times; return its id. A later one of
        its deployment takes its place."""
        deployment = servers.deployment(name)
        later = {
            "state": {
                "type": "SCHEDULED",
                "state_details": {"scheduled_time": "2999-01-01T00:00:00Z"},
            }
        }
        run = servers.api(f"deployments/{deployment}/create_flow_run", later)["id"]
        with get_client_of(servers) as client:
            client.update_flow_run_labels(run, {"retune.resumed": resumed})
        end = {"state": {"type": "CRASHED", "message": "killed"}, "force": True}
        servers.api(f"flow_runs/{run}/set_state", end)
        return run

    def state(self, servers, run: str) -> tuple[str, str]:
        (found,) = servers.api("flow_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})
        return found["state"]["name"], found["state"]["message"]

    def test_an_interrupted_run_is_begun_again_and_not_for_ever(self, servers):
        again = self.crashed(servers, 1, "llama31-8b-finetome")  # which has runs ahead, by schedule
        often = self.crashed(servers, 2)
        wait_for(lambda: self.state(servers, again)[0] == "AwaitingRetry")
        cancel = {"state": {"type": "CANCELLED"}, "force": True}
        servers.api(f"flow_runs/{again}/set_state", cancel)
        wait_for(
            lambda: self.state(servers, often)[1].startswith("Not begun again after 3 attempts")
        )
        assert self.state(servers, often)[0] == "Crashed"
        assert "killed" in self.state(servers, often)[1]

    def test_a_slot_that_no_run_holds_is_freed(self, servers):
        deployment = servers.deployment("llama31-8b-finetome-10k")
        with get_client_of(servers) as client:
            name = f"deployment:{deployment}"
            client.update_global_concurrency_limit(
                name, GlobalConcurrencyLimitUpdate(active_slots=1)
            )
            assert client.read_global_concurrency_limit_by_name(name).active_slots == 1
            wait_for(lambda: client.read_global_concurrency_limit_by_name(name).active_slots == 0)

    @pytest.mark.proof  # a minute of imports; `test_supervisor.py` has the same of other programs
    def test_a_worker_that_is_killed_is_started_again(self, servers):
        (worker,) = workers(servers)
        worker.kill()
        wait_for(lambda: set(workers(servers)) - {worker})


def workers(servers) -> list[psutil.Process]:
    """Return the worker's process; none while it is started again."""
    found = []
    for process in servers.children:
        with suppress(psutil.Error):  # it has ended, and nobody has asked how yet
            if "--pool" in process.cmdline():
                found.append(process)
    return found


@contextmanager
def get_client_of(servers):
    """Give a client of Prefect's, as this home's own programs have it."""
    values = {
        PREFECT_API_URL: f"{servers.prefect}/api",
        PREFECT_API_AUTH_STRING: servers.sign_in,
        PREFECT_CLIENT_CSRF_SUPPORT_ENABLED: True,
    }
    with temporary_settings(values), get_client(sync_client=True) as client:
        yield client


@pytest.mark.parametrize("kinds", ["ends", pytest.param("all", marks=pytest.mark.proof)])
def test_how_runs_end_is_sent_once_by_prefects_automations(servers, kinds):
    """Somebody is told all that a course says, and nothing else until a last run is told of.

    The last run starts when all else was told: Prefect hands an event on later, by seconds, where the one
    that it follows has not come yet.
    """
    deployment, everything = servers.deployment("llama31-8b-finetome-10k"), kinds == "all"
    wanted = {name: told_of for name, (_, told_of) in COURSES.items()}
    if everything:
        wanted |= {"alike": ("Equivalent",), "unclear": ("Undecided",), "kept": ("Registered",)}
    *names, last = sorted(COURSES, key="promoted".__eq__)
    with receiving() as (address, messages), get_client_of(servers) as client:
        sent = notifications.set_up(address, everything)
        assert messages[0].body == "Runs of retune are told here from now on."
        try:
            take_their_course(client, deployment, *names)
            wait_for(lambda: all(len(endings(messages, n)) >= len(wanted[n]) for n in names))
            take_their_course(client, deployment, last)
            wait_for(lambda: endings(messages, last))
        finally:
            assert notifications.remove() == len(sent.automations)
        told = {name: tuple(endings(messages, name)) for name in COURSES}
    assert told == wanted
    (cancelled,) = [one for one in messages if "cancelled" in one.title]
    assert cancelled.body.startswith(f"{KEPT}\n{NUMBERS}\n{servers.prefect}/runs/flow-run/")


@pytest.mark.proof  # the scheduler looks once a minute; test_line.py has such a run alone
def test_a_scheduled_run_on_bad_data_fails_before_any_training(servers, tmp_path):
    make_base(tmp_path / "base")
    rows = sums(400)
    for row in rows[:160]:
        row["conversations"].reverse()
    (tmp_path / "flipped.jsonl").write_text("\n".join(map(json.dumps, rows)))
    demo = servers.deployment("demo")
    schedule = {
        # A minute, because the scheduler looks at most once a minute, and only ahead.
        "schedule": {"interval": 60, "anchor_date": datetime.now(UTC).isoformat()},
        "active": True,
        "slug": "bad-data",
        "parameters": {
            "name": "bad-data",
            "model": {"base": str(tmp_path / "base"), "load_in_4bit": False},
            "dataset": {"source": str(tmp_path / "flipped.jsonl")},
            "validation": {},
        },
    }
    servers.api(f"deployments/{demo}/schedules", [schedule])
    ends = {
        "deployments": {"id": {"any_": [demo]}},
        "flow_runs": {"state": {"type": {"any_": ["COMPLETED", "FAILED", "CRASHED"]}}},
    }
    run = wait_for(lambda: servers.api("flow_runs/filter", ends), 2 * PATIENCE)[0]
    assert run["auto_scheduled"]
    assert run["state"]["name"] == "Rejected"
    for words in (
        "dataset rejected",
        "at most 5% of the rows have roles out of order",
        "40.0% (160 of 400 rows), e.g. row 0 (",
        "validation.tolerances.roles_out_of_order",
        "Repair the dataset, or change the setting named",
    ):
        assert words in run["state"]["message"]
    tasks = servers.api("task_runs/filter", {"flow_runs": {"id": {"any_": [run["id"]]}}})
    ran = {task["name"].partition("-")[0] for task in tasks}
    assert ran == {"pin_inputs", "conform", "rehearse", "fetch", "screen"}
