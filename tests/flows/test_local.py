"""Where a run without `retune ui` keeps its state, and which server's settings hold."""

import json
import socket
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tests.flows.servers import ROOT, environment

SHOW = """
import json, os
from flows import local
local.configure()
from prefect import get_client
from prefect.settings import get_current_settings
settings = get_current_settings()
print(json.dumps({
    "url": settings.api.url,
    "string": settings.api.auth_string and settings.api.auth_string.get_secret_value(),
    "sent": get_client(sync_client=True)._client.headers.get("Authorization"),
    "leases": settings.server.concurrency.lease_storage,
    "csrf": settings.server.api.csrf_protection_enabled,
    "origins": settings.server.api.cors_allowed_origins,
    "reports": settings.server.analytics_enabled,
    "sells": settings.server.ui.show_promotional_content,
}))
"""

ASK = """
from flows import local
local.be_patient()
from prefect import get_client
assert get_client(sync_client=True).read_flow_runs() == []
"""


def configured(folder: Path, **variables: str) -> dict:
    """Return what Prefect makes of its settings in `folder`."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", SHOW],
        cwd=folder,
        env=environment(folder / "home") | {"PYTHONPATH": str(ROOT)} | variables,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def left_by_a_ui(folder: Path) -> socket.socket:
    """Let it look as if this process were the `retune ui` of the home, and listen where it says."""
    from retune.processes import this_process

    server = socket.create_server(("127.0.0.1", 0))
    record = {"process": this_process(), "prefect_port": server.getsockname()[1], "started": []}
    (folder / "home").mkdir(parents=True)
    (folder / "home" / "ui.json").write_text(json.dumps(record))
    return server


class TestTheServerOfTheUser:
    """Somebody's own server keeps its settings and never hears this home's password."""

    URL = "http://prefect.example/api"

    # Each is a process that imports Prefect.
    @pytest.mark.parametrize(
        "place",
        [
            *("variable", "prefect.toml"),
            *(pytest.param(place, marks=pytest.mark.proof) for place in ("profile", ".env")),
        ],
    )
    def test_it_is_kept_whichever_place_names_it(self, tmp_path: Path, place: str) -> None:
        variables = {}
        if place == "variable":
            variables["PREFECT_API_URL"] = self.URL
        elif place == "profile":
            own = tmp_path / "own"
            own.mkdir()
            profile = f'active = "team"\n[profiles.team]\nPREFECT_API_URL = "{self.URL}"\n'
            (own / "profiles.toml").write_text(profile)
            variables["PREFECT_HOME"] = str(own)
        elif place == "prefect.toml":
            (tmp_path / place).write_text(f'[api]\nurl = "{self.URL}"\n')
        else:
            (tmp_path / place).write_text(f"PREFECT_API_URL={self.URL}\n")
        with left_by_a_ui(tmp_path):
            found = configured(tmp_path, **variables)
        assert found["url"] == self.URL
        assert found["string"] is None
        assert found["sent"] is None
        assert not (tmp_path / "home" / "sign-in").exists()

    def test_its_own_sign_in_is_sent(self, tmp_path: Path) -> None:
        own = {"PREFECT_API_URL": self.URL, "PREFECT_API_AUTH_STRING": "team:theirs"}
        assert configured(tmp_path, **own)["string"] == "team:theirs"


def test_a_patient_client_asks_a_server_again_that_is_out_of_order(tmp_path: Path) -> None:
    asked = []

    class OutOfOrder(BaseHTTPRequestHandler):
        """Answers as Prefect's server does while its disk is full, and then in order again."""

        def do_POST(self) -> None:
            asked.append(self.path)
            body = b'{"exception_message": "Internal Server Error"}' if len(asked) == 1 else b"[]"
            self.send_response(500 if len(asked) == 1 else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), OutOfOrder) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        done = subprocess.run(
            [sys.executable, "-c", ASK],
            env=environment(tmp_path)
            | {"PREFECT_API_URL": f"http://127.0.0.1:{server.server_port}/api"}
            | {"PREFECT_CLIENT_CSRF_SUPPORT_ENABLED": "false", "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        server.shutdown()
    assert done.returncode == 0, done.stderr
    assert asked == ["/api/flow_runs/filter"] * 2


@pytest.mark.slow  # a server
def test_our_server_has_our_settings_whatever_else_is_set(tmp_path: Path) -> None:
    with left_by_a_ui(tmp_path) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}/api"
        found = configured(
            tmp_path,
            PREFECT_API_AUTH_STRING="team:theirs",
            PREFECT_SERVER_API_AUTH_STRING="team:theirs",
            PREFECT_SERVER_CORS_ALLOWED_ORIGINS="*",
        )
        # Who names it by its address, as for the `prefect` command, means the same.
        for named in (address, address.replace("127.0.0.1", "localhost")):
            assert configured(tmp_path, PREFECT_API_URL=named) == found
        assert found["url"] == address
    assert found["string"] == (tmp_path / "home" / "sign-in").read_text().strip()
    assert found["sent"].startswith("Basic ")
    assert found["leases"] == "prefect.server.concurrency.lease_storage.filesystem"
    assert found["csrf"]
    assert found["origins"] == "http://127.0.0.1"
    assert not found["reports"]
    assert not found["sells"]
