"""`retune ui` as a person starts and stops it, and its API as its user asks it."""

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil

ROOT = Path(__file__).parent.parent.parent
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
RETUNE = Path(sys.executable).with_name("retune")
PATIENCE = 300  # seconds for three servers on a loaded machine
ATTEMPTS = 5


class Answer(NamedTuple):
    status: int
    body: bytes
    headers: dict[str, str]


def ask(url: str, body: Any = None, sign_in: str | None = None, **headers: str) -> Answer:
    """Return what a server answers, also when it refuses; a body makes it a POST."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    if sign_in:
        headers["Authorization"] = "Basic " + base64.b64encode(sign_in.encode()).decode()
    data = None
    if body is not None:
        data, headers["Content-Type"] = json.dumps(body).encode(), "application/json"
    request = urllib.request.Request(url, data=data, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return Answer(answer.status, answer.read(), dict(answer.headers))
    except urllib.error.HTTPError as error:
        return Answer(error.code, error.read(), dict(error.headers))


class Servers(NamedTuple):
    prefect: str
    mlflow: str
    home: Path
    process: "subprocess.Popen[str]"
    printed: str

    @property
    def sign_in(self) -> str:
        return (self.home / "sign-in").read_text().strip()

    @property
    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def api(self, path: str, body: Any) -> Any:
        """Post to Prefect's API, as its pages do, and return its answer."""
        client = ask(f"{self.prefect}/api/csrf-token?client=test", sign_in=self.sign_in)
        token = json.loads(client.body)["token"]
        for attempt in range(1, ATTEMPTS + 1):
            answer = ask(
                f"{self.prefect}/api/{path}",
                body,
                sign_in=self.sign_in,
                Prefect_Csrf_Token=token,
                Prefect_Csrf_Client="test",
            )
            if answer.status != 503:  # its database is locked: Prefect's own clients try again, too
                break
            time.sleep(attempt)
        assert answer.status < 300, answer
        return json.loads(answer.body)

    def deployment(self, name: str) -> str:
        """Return the id of a deployment."""
        (found,) = self.api("deployments/filter", {"deployments": {"name": {"any_": [name]}}})
        return found["id"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def environment(home: Path) -> dict[str, str]:
    """Return this process's environment, for a home folder and no servers of anybody's own."""
    ours = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT", "MLFLOW"))}
    return ours | {"RETUNE_HOME": str(home)}


@contextmanager
def retune_ui(home: Path, *options: str, **variables: str) -> Iterator[Servers]:
    """Start `retune ui`, with these environment variables as well, and see that it takes everything
    down with it in the end."""
    prefect, mlflow = free_port(), free_port()
    ui = subprocess.Popen(
        [RETUNE, "ui", "--prefect-port", str(prefect), "--mlflow-port", str(mlflow), *options],
        cwd=ROOT,
        env=environment(home) | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    children = []
    try:
        printed = ""
        while "Ctrl-C" not in printed:
            line = ui.stdout.readline()
            assert line, printed
            printed += line
        addresses = f"http://127.0.0.1:{prefect}", f"http://127.0.0.1:{mlflow}"
        running = Servers(*addresses, home, ui, printed)
        children = running.children
        yield running
    finally:
        killed = ui.poll() is not None  # by the test
        if not killed:
            ui.send_signal(signal.SIGTERM)
            assert ui.wait(timeout=60) == 0
    _, alive = psutil.wait_procs(children, timeout=20)
    assert len(children) >= 3
    assert alive == []


def wait_for(what: Callable[[], Any], patience: float = PATIENCE) -> Any:
    """Return what `what` returns as soon as that is true."""
    deadline = time.monotonic() + patience
    while not (found := what()):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    return found


@contextmanager
def signed_in(servers: Servers, width: int, height: int, seconds: int) -> Iterator[Any]:
    """Return a page of a browser that is signed in to Prefect, and waits so many seconds for what it is
    asked for. Needs BROWSER."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(1000 * seconds)
        page.goto(servers.prefect)
        page.fill("input[type=password]", servers.sign_in)
        page.keyboard.press("Enter")
        page.wait_for_url("**/dashboard*")
        yield page
        browser.close()
