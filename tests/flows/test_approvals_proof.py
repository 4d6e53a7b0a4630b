"""A person decides on Prefect's page whether a candidate of the whole line may serve, in a browser.

`RETUNE_SCREENSHOTS=<folder>` keeps what the person sees.
"""

import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from retune import registry, tracking
from retune.retention import WAITING
from tests.databases import working_in
from tests.flows.colours import Colours, rows
from tests.flows.servers import BROWSER, Servers, retune_ui, signed_in, wait_for
from tests.flows.test_approval import processes_of

pytestmark = [
    pytest.mark.proof,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(BROWSER is None, reason="there is no Chromium on this machine"),
]
ENDS = ("Promoted", "Equivalent", "Undecided", "Registered", "Rejected", "Failed", "Crashed")
ASKED_AGAIN = "What was answered before does not count: colours/3 was compared with version 1"
PATIENCE = 900  # seconds for a run on a loaded machine


class Line(NamedTuple):
    """The recipe `colours` as a deployment's parameters, and who starts its runs."""

    project: Colours
    servers: Servers
    page: Any  # a browser's, signed in

    def suspended(self, steps: int) -> str:
        """Start a run whose candidate a person is asked about; return its id when it waits."""
        folder = self.project.folder
        recipe = self.project.recipe | {
            "model": self.project.recipe["model"] | {"base": str(folder / "base")},
            "dataset": {"source": str(folder / "good.jsonl")},
            "training": self.project.recipe["training"] | {"max_steps": steps},
            "promotion": {"mode": "approve"},
            "validation": {},  # else the section of the deployment
        }
        demo = self.servers.deployment("demo")
        path = f"deployments/{demo}/create_flow_run"
        run = self.servers.api(path, {"parameters": recipe, "state": {"type": "SCHEDULED"}})["id"]
        found = self.end_of(run, WAITING, *ENDS)
        assert found[0] == WAITING, found
        wait_for(lambda: not processes_of(run))
        return run

    def state(self, run: str) -> tuple[str, str]:
        (found,) = self.servers.api("flow_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})
        return found["state"]["name"], found["state"]["message"] or ""

    def end_of(self, run: str, *names: str) -> tuple[str, str]:
        ends = names or ENDS
        return wait_for(lambda: (state := self.state(run))[0] in ends and state, PATIENCE)

    def opened(self, run: str, name: str) -> Any:
        """Open the form of a run that waits, by its page, and return it."""
        self.page.goto(f"{self.servers.prefect}/v2/runs/flow-run/{run}")
        menu = self.page.get_by_role("button", name="Open menu")
        menu.wait_for()
        self.shot(f"{name}-run")
        menu.click()
        self.page.get_by_role("menuitem", name="Resume").click()
        form = self.page.get_by_role("dialog")
        form.get_by_text("and not promoted yet").wait_for()
        form.get_by_text("Without an answer until").wait_for()
        self.shot(f"{name}-form")
        return form

    def fill_in(self, form: Any, verb: str, name: str, reason: str) -> None:
        form.get_by_text("Select", exact=True).click()
        self.page.get_by_role("option", name=verb).click()
        who, why = form.locator("textarea").all()
        who.fill(name)
        why.fill(reason)
        self.shot(f"{verb}-{name}-filled")
        form.get_by_role("button", name="Resume").click()

    def shot(self, name: str) -> None:
        """Keep a picture of the page, for whoever named a folder."""
        if folder := os.environ.get("RETUNE_SCREENSHOTS"):
            self.page.screenshot(path=Path(folder, f"{name}.png"))

    def artifact(self, key: str, run: str | None = None) -> str:
        """Return the newest artifact with a key, of a run or of any."""
        asked: dict[str, Any] = {"artifacts": {"key": {"any_": [key]}}, "sort": "CREATED_DESC"}
        if run:
            asked["flow_runs"] = {"id": {"any_": [run]}}
        return self.servers.api("artifacts/filter", asked)[0]["data"]


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    project = Colours(tmp_path_factory.mktemp("project"))
    with (
        retune_ui(project.folder / ".retune") as servers,
        signed_in(servers, 1280, 1100, seconds=120) as page,
    ):
        yield Line(project, servers, page)


@pytest.fixture(autouse=True)
def store(line, monkeypatch):
    """This process looks into the store of the runs."""
    with working_in(monkeypatch, line.servers.home):
        yield


def test_people_decide_and_each_is_heard_once(line):
    """One story, since each candidate is compared with the one that serves: approved, rejected, and
    approved by evidence against a version that serves no more."""
    run = line.suspended(steps=100)
    assert registry.serving("colours") is None
    summary = line.artifact("summary", run)
    assert summary.startswith(f"# … {WAITING}")
    assert "Resume in the menu" in summary
    assert "is better than the base" in line.artifact("promote-report", run)
    # Meanwhile the dataset moves: what was asked about is what is answered.
    dataset = line.project.folder / "good.jsonl"
    before = dataset.read_text()
    line.project.write("good.jsonl", rows()[8:])
    line.fill_in(line.opened(run, "first"), "approve", "Ann", "reads well")
    state, why = line.end_of(run)
    assert state == "Promoted", why
    assert re.match(r"colours/1 serves; reason \(.+\): reads well\.\n", why)
    approved, promoted = registry.history("colours")
    assert (approved.kind, approved.by, approved.reason) == ("approve", "Ann", "reads well")
    assert (promoted.kind, promoted.by, promoted.reason) == ("promote", "Ann", "reads well")
    assert "**colours/1** serves" in line.artifact("in-service-colours")
    of_run = {"flow_runs": {"id": {"any_": [run]}}}
    keys = [one["key"] for one in line.servers.api("artifacts/filter", of_run) if one["key"]]
    assert len(set(keys)) == len(keys)  # though it has shown its stages twice
    assert (line.servers.home / "serving" / "colours").exists()
    dataset.write_text(before)

    run = line.suspended(steps=150)
    line.fill_in(line.opened(run, "second"), "reject", "Bob", "too short")
    state, why = line.end_of(run)
    assert state == "Rejected"
    assert "rejected by Bob: too short" in why
    assert registry.serving("colours").number == 1
    assert registry.version("colours", 2).tags[tracking.DECISION].startswith("Rejected")
    line.page.goto(f"{line.servers.prefect}/v2/runs/flow-run/{run}")
    line.page.get_by_text("Rejected").first.wait_for()
    line.shot("second-rejected")

    run = line.suspended(steps=200)
    form = line.opened(run, "third")
    done = line.project.retune("promote", "colours", "2", "--reason", "by hand")
    assert done.returncode == 0, done.stderr
    line.fill_in(form, "approve", "Ann", "it is the best")
    # Its answer was of another comparison: it is made, and she is asked again.
    wait_for(lambda: registry.history("colours")[-1].serving == 2)
    wait_for(lambda: line.state(run)[0] != WAITING)
    state, why = line.end_of(run, WAITING, *ENDS)
    assert state == WAITING, why
    assert registry.serving("colours").number == 2
    line.page.goto(line.servers.prefect)
    line.opened(run, "third-again").get_by_text(ASKED_AGAIN).wait_for()
