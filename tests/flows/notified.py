"""Runs that end in every way, and somebody who is told: a receiver of Apprise's `json://` messages."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import NamedTuple

from prefect.client.orchestration import SyncPrefectClient
from prefect.states import (
    Cancelled,
    Completed,
    Crashed,
    Failed,
    Paused,
    Running,
    Scheduled,
    State,
    Suspended,
)

from flows.watchdog import BY_WORKER

NUMBERS = "loss 0.41 · win rate 0.63 · q4_k_m 1.2 GiB"  # as `run_page.told` has three
KEPT = "Cancelled: the checkpoint of step 8 is kept; Retry continues from there."
NO_SPACE = "no space left in /data (1.0 MiB free): free some; finished stages are kept"
SPENT = "the run would take 9.0 GPU hours, and 5.0 are left (gates.budget)"
# What a run goes through, and the endings that somebody is told of, each once.
COURSES: dict[str, tuple[tuple[State, ...], tuple[str, ...]]] = {
    "promoted": ((Completed(name="Promoted", message="sums/2 serves"),), ("Promoted",)),
    "bad rows": ((Failed(name="Rejected", message="dataset rejected"),), ("Rejected",)),
    "barred": ((Completed(name="Barred", message="forgot its budget"),), ("Barred",)),
    "disk": ((Failed(name="Failed", message=NO_SPACE),), ("Failed",)),
    "over budget": ((Failed(name="Failed", message=SPENT),), ("Failed",)),
    "too long": ((Failed(name="TimedOut", message="after 6 hours"),), ("TimedOut",)),
    "unchanged": ((Completed(name="Skipped", message="unchanged since"),), ("Skipped",)),
    # A run is suspended before it says what it waits for: that is told once.
    "asked": (
        (
            Suspended(timeout_seconds=9e5, pause_key="a"),
            Paused(name="AwaitingApproval", timeout_seconds=9e5, message="menu → Resume"),
        ),
        ("AwaitingApproval",),
    ),
    "crashed": (
        (Crashed(message="killed"), Running(), Completed(name="Promoted", message="after all")),
        ("Crashed", "goes on", "Promoted"),
    ),
    # The run, its worker and the watchdog each write that it is cancelled.
    "cancelled": (
        (Running(), *(Cancelled(message=words) for words in (KEPT, BY_WORKER, KEPT))),
        ("Cancelled",),
    ),
    "dropped": ((Cancelled(message="its schedule has another"),), ("Cancelled",)),
    "older": ((Cancelled(name="Superseded", message="a newer one runs"),), ()),
    "alike": ((Completed(name="Equivalent", message="no better"),), ()),
    "unclear": ((Completed(name="Undecided", message="too few"),), ()),
    "kept": ((Completed(name="Registered", message="as a version"),), ()),
}


class Message(NamedTuple):
    title: str
    body: str


@contextmanager
def receiving() -> Iterator[tuple[str, list[Message]]]:
    """Give an address of Apprise's on the loopback, and what arrives there."""
    messages: list[Message] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            messages.append(Message(sent["title"], sent["message"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"json://127.0.0.1:{server.server_port}", messages
        server.shutdown()


def take_their_course(client: SyncPrefectClient, deployment: str, *names: str) -> None:
    """Make runs of a deployment that no worker takes, and let them go through their states."""
    far = Scheduled(scheduled_time=datetime(2999, 1, 1, tzinfo=UTC))
    for name in names:
        run = client.create_flow_run_from_deployment(deployment, state=far, name=name)
        for state in COURSES[name][0]:
            message = f"{state.message or name}\n{NUMBERS}"
            told = state.model_copy(update={"message": message})
            client.set_flow_run_state(run.id, told, force=True)


def endings(messages: list[Message], name: str) -> list[str]:
    """Return which endings of a run were told, in order."""
    start = f"retune: {name}"
    told = [one.title.removeprefix(start).lstrip(": ") for one in messages if start in one.title]
    return [ending.removesuffix(" after a crash") for ending in told]
