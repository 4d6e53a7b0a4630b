"""What a person sees of data: Prefect's pages and a terminal show nasty text, and do nothing more."""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.flows.test_line import sums
from tests.flows.test_ui import free_port
from tests.nasty import HOST, MARK, NASTY, unseen_in
from tests.rendered import ACTIVE, Page, rendered
from tests.tasks.test_validate import run_gate, sound

ROOT = Path(__file__).parent.parent.parent
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
TEXTS = [text for text in NASTY.values() if "\ud800" not in text]


class Shown:
    """A Prefect server with one failed run of `nasty_run.py`."""

    def __init__(self, address: str) -> None:
        self.address = address
        (self.run,) = self.api("flow_runs/filter")
        self.artifacts = self.api("artifacts/filter", {"artifacts": {"key": {"exists_": True}}})

    def api(self, path: str, body: Any = None) -> Any:
        request = urllib.request.Request(
            f"{self.address}/api/{path}",
            data=json.dumps(body or {}).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)


# A server and a run; in `make test` the words are looked at where they are made, as in a grid below.
@pytest.fixture(scope="module", params=[pytest.param("nasty", marks=pytest.mark.proof)])
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    folder = tmp_path_factory.mktemp("nasty")
    flawed = [[("assistant", text), ("user", text)] for text in TEXTS]
    sources = {"source": ["sums"] * 40 + TEXTS}
    run_gate(folder, *sound(40), *flawed, rows=sources, keep=["roles_out_of_order"])
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT", "MLFLOW"))}
    environment |= {
        "RETUNE_HOME": str(folder / "home"),
        "PREFECT_HOME": str(folder / "home" / "prefect"),
        "PREFECT_API_URL": f"{address}/api",
        "PREFECT_UI_API_URL": f"{address}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PYTHONPATH": str(ROOT),
    }
    (folder / "home" / "prefect").mkdir(parents=True)
    prefect = Path(sys.executable).with_name("prefect")
    server = subprocess.Popen(
        [prefect, "server", "start", "--port", str(port)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(f"{address}/api/health", server)
        script = Path(__file__).with_name("nasty_run.py")
        done = subprocess.run(
            [sys.executable, script, folder], env=environment, capture_output=True, check=False
        )
        assert done.stdout.decode().strip() == "StateType.FAILED", done.stderr.decode()
        yield Shown(address)
    finally:
        server.terminate()
        server.wait(timeout=30)


def wait_for(address: str, server: subprocess.Popen) -> None:
    deadline = time.monotonic() + 150
    while True:
        assert server.poll() is None
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.5)


def test_markdown_and_descriptions_have_nothing_in_them_that_acts(shown):
    texts = {a["key"]: a["data"] for a in shown.artifacts if a["type"] == "markdown"}
    assert set(texts) == {"validate-report", "format", "samples", "verdicts", "summary"}
    assert len(shown.artifacts) == len(texts)  # what a stage showed itself is replaced
    assert all(MARK in text for text in texts.values())
    texts |= {f"about {a['key']}": a["description"] for a in shown.artifacts}
    for key, text in texts.items():
        active = [tag for tag in Page(rendered(text)).names() if tag in ACTIVE]
        # A line for each verdict, and no other one.
        ours = {"summary": ["h3"], "verdicts": ["li"] * text.count("\n- **")}
        assert active == ours.get(key, []), key
        assert unseen_in(text) == [], key


def test_states_and_logs_are_seen(shown):
    (message,) = [shown.run["state"]["message"]]
    assert "dataset rejected" in message
    assert unseen_in(message) == []
    lines = [line["message"] for line in shown.api("logs/filter")]
    assert any(MARK in line for line in lines)
    assert unseen_in("".join(lines)) == []


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium on this machine")
def test_in_a_browser_no_page_calls_home_or_shows_what_the_text_would_make(shown):
    from playwright.sync_api import sync_playwright

    pages = {a["key"]: f"/v2/artifacts/artifact/{a['id']}" for a in shown.artifacts}
    pages["run"] = f"/v2/runs/flow-run/{shown.run['id']}"
    made = "main img, main h1, main h2, main h3, main svg[onload], main iframe, main script"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        for key, path in pages.items():
            page = browser.new_page()
            asked, wrong = [], []
            page.on("request", lambda request, asked=asked: asked.append(request.url))
            page.on(
                "dialog", lambda dialog, wrong=wrong: (wrong.append("dialog"), dialog.dismiss())
            )
            page.on("pageerror", lambda error, wrong=wrong: wrong.append(str(error)))
            # Prefect's own page asks a host of its maker's for settings; nobody answers here.
            page.route(
                lambda url: not url.startswith((shown.address, "blob:", "data:")),
                lambda route: route.abort(),
            )
            page.goto(shown.address + path)
            words = "dataset rejected" if key == "run" else key
            page.get_by_text(words).first.wait_for(timeout=60_000)
            page.wait_for_timeout(1500)
            said = page.locator("main").inner_text()
            assert "went wrong" not in said, key
            if key != "run":
                assert MARK in said, key
            assert not [url for url in asked if HOST in url], key
            assert wrong == [], key
            headings = [element.inner_text() for element in page.locator(made).all()]
            assert headings == ([f"# {MARK}"] if key == "summary" else []), key
            for link in page.locator("main a").all():
                # An address may be a link, but only to what it says.
                target = link.get_attribute("href") or ""
                assert HOST not in target or link.inner_text().split("/")[0] in target, key
            page.close()
        browser.close()


@pytest.mark.proof  # the words of all else on a terminal are looked at below
def test_a_terminal_is_told_what_a_source_is_called(tmp_path):
    rows = sums(150)
    for row in rows:
        row["source"] = "\x1b[2J\x1b[1;1H\x1b[32mACCEPTED\r\u202e"
    (tmp_path / "painted.jsonl").write_text("\n".join(map(json.dumps, rows)))
    rule = ["--set", "validation.severities={max_source_share: critical}"]
    done = subprocess.run(
        [
            *(Path(sys.executable).with_name("retune"), "validate", "painted.jsonl", *rule),
            *("--set", "validation.max_source_share=0.5"),
        ],
        cwd=tmp_path,
        env=os.environ
        | {"RETUNE_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "from \\x1b[2J\\x1b[1;1H\\x1b[32mACCEPTED\\r\\u202e" in done.stdout
    assert "FAILED" in done.stdout
    assert unseen_in(done.stdout + done.stderr) == []


@pytest.mark.parametrize("text", NASTY.values(), ids=list(NASTY))
def test_a_grid_on_a_terminal_prints_words(text):
    import io

    from rich.console import Console

    from flows.summary import Grid

    out = io.StringIO()
    console = Console(file=out, width=300, force_terminal=True, color_system=None)
    console.print(Grid(title=text, columns=["", text], rows=[[text, text]]).rich())
    assert unseen_in(out.getvalue().replace("\n", "")) == []
    assert "[red]" not in text or "[red]canary[/red]" in out.getvalue()
