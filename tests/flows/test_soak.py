"""Scheduled runs of two recipes that nobody looks after: what they leave, and what grows.

`RETUNE_SOAK_RUNS` (50, at least 4) says how many are to end, `RETUNE_SOAK_INTERVAL` (15 seconds) how
often one of each recipe is due; `make soak` prints a table of what grew. Where runs are due more often
than the machine can do them, most only begin to give way to a newer one: that takes longer.
"""

import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.databases import furnish
from tests.flows.chaos import GOOD, left_open, rows, service
from tests.flows.servers import RETUNE, ROOT, Servers, environment, retune_ui, wait_for
from tests.flows.test_chaos import NOTHING, recipe
from tests.flows.test_line import Project, sums

RUNS = int(os.environ.get("RETUNE_SOAK_RUNS", "50"))
RECIPES = {"demo": "first", "smollm2": "second"}  # by the deployment whose runs they are
INTERVAL = int(os.environ.get("RETUNE_SOAK_INTERVAL", "15"))  # seconds between two that are due
# What a run waits for besides its work: it is asked for every 10 s, and every 30 s behind another one.
SHORT_WAITS = {
    "PREFECT_WORKER_QUERY_SECONDS": "3",
    "PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "2",
}
CHANGES = max(1, RUNS // 10)  # times that rows are appended
NEW_ROWS = 40
PATIENCE = 900  # seconds without a run that ends
FINE = (*GOOD, "Skipped", "Superseded")
KEPT = 4  # of each recipe: the champion, the one before it, a challenger, the newest
MEBIBYTE = 1 << 20
MEMORY = 256 * MEBIBYTE  # by which a service may grow
DATABASE = 2 * MEBIBYTE  # by which a database may grow with each run


def states(home: Path) -> Counter[str]:
    """Return how the scheduled runs ended that have ended, by the names of their states; one that gave
    way to a newer one is Superseded as well."""
    query = (
        "select case when s.message like '% is newer, and runs instead' then 'Superseded' "
        "else r.state_name end, count(*) from flow_run r join flow_run_state s on r.state_id = s.id "
        "where r.end_time is not null group by 1"
    )
    return Counter(dict(rows(home / "prefect" / "prefect.db", query)))


def bytes_of(path: Path) -> int:
    total = 0
    for file in [path] if path.is_file() else path.rglob("*"):
        with suppress(OSError):  # it was removed meanwhile
            total += file.stat().st_size
    return total


def memory(home: Path, name: str) -> int:
    total = 0
    for process in service(home, name):
        with suppress(psutil.Error):
            total += process.memory_info().rss
    return total


def sizes(home: Path) -> dict[str, int]:
    """Return the bytes of all that may grow."""
    of_services = {f"memory: {name}": memory(home, name) for name in ("server", "worker", "mlflow")}
    files = {"Prefect's database": "prefect/prefect.db", "MLflow's database": "mlflow.db"}
    return {
        **of_services,
        **{name: bytes_of(home / file) for name, file in files.items()},
        "outputs": bytes_of(home / "work"),
        "logs": bytes_of(home / "logs"),
        "home": bytes_of(home),
    }


def schedule(servers: Servers, deployment: str, parameters: dict[str, Any]) -> None:
    """Let runs of a deployment be due again and again, with another recipe."""
    path = f"deployments/{servers.deployment(deployment)}/schedules"
    due = {"interval": INTERVAL, "anchor_date": datetime.now(UTC).isoformat()}
    entry = {"schedule": due, "active": True, "slug": "soak", "parameters": parameters}
    servers.api(path, [entry])


@contextmanager
def second_worker(home: Path) -> Iterator[None]:
    """Let two runs work at a time, one of each recipe, as on a machine with two GPUs."""
    with (home / "logs" / "second-worker.log").open("ab") as log:
        worker = subprocess.Popen(
            [RETUNE, "worker"],
            cwd=ROOT,
            env=environment(home) | SHORT_WAITS,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield
    finally:
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 0


def append(file: Path, seen: int) -> None:
    """Append rows to a dataset that are in none yet."""
    more = sums(seen + NEW_ROWS)[seen:]
    with file.open("a") as rows_file:
        rows_file.writelines(f"\n{json.dumps(row)}" for row in more)


def ended(home: Path, before: int) -> int:
    """Return how many runs have done something and ended, once that are more than before."""
    seen = states(home)
    count = seen.total() - seen["Superseded"]  # these only waited
    return count if count > before else 0


def table(before: dict[str, int], after: dict[str, int]) -> str:
    lines = [f"{'':<20} {'first run':>10} {'end':>10} {'growth':>10}  MiB"]
    for name, size in after.items():
        values = (size_ / MEBIBYTE for size_ in (before[name], size, size - before[name]))
        lines.append(f"{name:<20} {' '.join(f'{value:>10.1f}' for value in values)}")
    return "\n".join(lines)


@pytest.mark.proof
@pytest.mark.timeout(4 * 3600)
def test_runs_that_nobody_looks_after_leave_nothing_and_grow_by_what_is_kept(tmp_path):
    project, home = Project(tmp_path), furnish(tmp_path / "home")
    files = {name: tmp_path / f"{name}.jsonl" for name in RECIPES.values()}
    settings = recipe(project)
    settings["training"]["max_steps"] = 4
    settings["quantization"]["methods"] = ["q8_0"]
    settings["evaluation"] |= {"battery": False}  # 300 answers of two models, at each change
    counts = dict.fromkeys(files, 400)
    for file in files.values():
        file.write_text((tmp_path / "good.jsonl").read_text())
    begun, changes, first = time.monotonic(), 0, {}
    cleaning = ("--gc-cron", "*/5 * * * *", "--gc-delete")  # each takes seconds of a core
    with retune_ui(home, *cleaning, **SHORT_WAITS) as servers, second_worker(home):
        for deployment, name in RECIPES.items():
            dataset = settings["dataset"] | {"source": str(files[name])}
            schedule(servers, deployment, settings | {"name": name, "dataset": dataset})
        count = 0
        while count < RUNS:
            count = wait_for(partial(ended, home, count), PATIENCE)
            first = first or sizes(home)
            assert set(states(home)) <= set(FINE), states(home)
            if count >= RUNS * (changes + 1) / (CHANGES + 1) and changes < CHANGES:
                name = list(files)[changes % len(files)]
                append(files[name], counts[name])
                counts[name] += NEW_ROWS
                changes += 1
        for deployment in RECIPES:
            servers.api(f"deployments/{servers.deployment(deployment)}/pause_deployment", {})
        wait_for(lambda: left_open(home) == NOTHING, PATIENCE)
        last = sizes(home)
    print(f"\n{table(first, last)}")
    print(
        f"{dict(states(home))}; rows were appended {changes} times; "
        f"{(time.monotonic() - begun) / 60:.1f} minutes"
    )
    assert left_open(home) == NOTHING
    assert states(home)["Skipped"]  # and some trained
    assert sum(states(home)[name] for name in GOOD) >= len(RECIPES)
    growth = {name: last[name] - first[name] for name in last}
    assert all(growth[name] < MEMORY for name in last if name.startswith("memory")), growth
    assert all(growth[name] < DATABASE * RUNS for name in last if "database" in name), growth
    assert last["outputs"] <= KEPT * len(RECIPES) * first["outputs"]
