"""Runs of the small line that are killed again and again end as one that nobody touched.

`RETUNE_CHAOS_KILLS` (3) and `RETUNE_CHAOS_SEED` (1) say how much and which; `make chaos` does 40.
`RETUNE_CHAOS_KINDS` names some kinds alone (`clock,run`). With an even seed Prefect's database is in
PostgreSQL. The home folder is on a small disk in memory where one may be mounted, and sees another time
where there is a C compiler: what is left out is said at the end.
"""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from tests.databases import furnish_mlflow
from tests.flows import postgres
from tests.flows.chaos import (
    GOOD,
    ON_POSTGRES,
    PATIENCE,
    Chaos,
    Damage,
    begin,
    curves,
    left_open,
    of_clock,
    of_disk,
    of_postgres,
    outputs,
    prefect_rows,
    state,
)
from tests.flows.clock import COMPILER, Clock
from tests.flows.servers import Servers, retune_ui, wait_for
from tests.flows.small_disk import Ballast, CannotMount, small_disk
from tests.flows.test_full_disk import SENTENCES
from tests.flows.test_line import Project

KILLS = int(os.environ.get("RETUNE_CHAOS_KILLS", "3"))
SEED = int(os.environ.get("RETUNE_CHAOS_SEED", "1"))
KINDS = tuple(filter(None, os.environ.get("RETUNE_CHAOS_KINDS", "").split(",")))
STEPS = 12
PAUSE = 20  # seconds between two strikes, at most
IN_A_RUN = 7  # strikes, at most: then it is to end
DISK = 1024  # MiB
SETTLED = 20  # seconds after which a person retries a run that failed


def recipe(project: Project) -> dict:
    settings = yaml.safe_load((project.folder / "recipe.yaml").read_text())
    settings["model"]["base"] = str(project.folder / "base")
    settings["dataset"]["source"] = str(project.folder / "good.jsonl")
    settings["training"] |= {"backend": "trl", "max_steps": STEPS, "checkpoint_steps": 2}
    settings["merging"] = {"save_method": "merged_16bit"}
    settings["quantization"] |= {"methods": ["q8_0", "q4_k_m"], "gates": {}}
    settings["validation"] = {}  # not the deployment's, which wants more rows
    # What a random model answers, and forgets, is not the same with every version of torch.
    gates = ("quantize.same_top_token", "promote.budget", "promote.no_worse")
    settings["gates"] = {"severities": dict.fromkeys(gates, "warning")}
    return settings


class Place(NamedTuple):
    """A home folder, what can be done to it beyond its processes, and what cannot, with the reason."""

    home: Path
    damages: list[Damage]
    variables: dict[str, str]
    left_out: list[str]


@contextmanager
def place(folder: Path) -> Iterator[Place]:
    """Make a home folder of which as much can be broken as this machine and the seed allow."""
    found = Place(folder / "disk" / "home", [], {}, [])
    with ExitStack() as stack:
        try:
            disk = stack.enter_context(small_disk(folder / "disk", DISK))
            found.damages.append(of_disk(Ballast(disk)))
        except CannotMount as reason:
            found.left_out.append(f"disk: {reason}")
        furnish_mlflow(found.home)
        if SEED % 2:
            found.left_out.append("postgres: the seed is odd")
        elif not postgres.PROGRAM:
            found.left_out.append("postgres: PostgreSQL is not installed")
        else:
            server = postgres.Postgres()
            stack.callback(server.end)
            found.damages.append(of_postgres(server))
            found.variables.update(server.variables)
            (found.home / ON_POSTGRES).write_text(server.url)
        if COMPILER:
            clock = Clock(folder)
            found.damages.append(of_clock(found.home, clock, SEED))
            found.variables.update(clock.variables)
        else:
            found.left_out.append("clock: no C compiler is installed")
        yield found


@pytest.mark.proof
@pytest.mark.timeout(4 * 3600)
def test_runs_that_are_killed_at_random_end_as_one_that_nobody_touched(tmp_path, monkeypatch):
    monkeypatch.setenv("RETUNE_ATTEMPTS", "99")
    project = Project(tmp_path)
    settings = recipe(project)
    (tmp_path / "chaos.yaml").write_text(yaml.safe_dump(settings))
    done = project.retune("run", "chaos.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    untouched = outputs(tmp_path / ".retune")
    assert len(untouched) >= 4

    with place(tmp_path) as where:
        chaos = Chaos(where.home, SEED, where.damages, KINDS)
        begun, number = time.monotonic(), 0
        while len(chaos.done) < KILLS:
            number += 1
            name = f"chaos{number}"
            strikes = min(IN_A_RUN, KILLS - len(chaos.done))
            disturbed(where, chaos, settings | {"name": name}, strikes)
            for run, steps in curves(where.home, name).items():
                assert steps == list(range(1, STEPS + 1)), (run, chaos.done)
                assert run.endswith("FINISHED"), chaos.done
            made = {file.replace(name, "sums"): sha for file, sha in outputs(where.home).items()}
            assert made == untouched, chaos.done
            shutil.rmtree(where.home / "work")
    taken = time.monotonic() - begun
    print(f"seed {SEED}: {', '.join(chaos.done)}; {number} runs, {taken:.0f} s")
    print(f"left out: {'; '.join(where.left_out) or 'nothing'}")


NOTHING: dict[str, list] = {
    name: [] for name in ("flow runs", "slots", "processes", "partial outputs")
}


def disturbed(where: Place, chaos: Chaos, settings: dict, strikes: int | None) -> None:
    """Take a recipe to its end through `strikes`, and see that nothing of it is left."""
    run, home = "", where.home
    chaos.next_run()
    while strikes is not None:
        with retune_ui(home, **where.variables) as servers:
            run = run or begin(servers, settings)
            strikes = struck(servers, chaos, run, strikes)
            if strikes is None:
                wait_for(partial(has_ended, servers, run), PATIENCE)
                assert state(home, run)[0] in GOOD, (*state(home, run), chaos.done, told(home))
                wait_for(lambda: left_open(home) == NOTHING, 120)
            else:
                servers.process.wait(30)  # killed with everything else


def told(home: Path) -> str:
    """Return the errors that were logged, and the ends of the servers' logs: the disk goes."""
    query = "select message from log where level >= 40 order by timestamp"
    files = sorted((home / "logs").glob("*.log"))
    ends = (f"{file.name}: {file.read_text(errors='replace')[-4000:]}" for file in files)
    return "\n".join([*(message for (message,) in prefect_rows(home, query)), *ends])


def struck(servers: Servers, chaos: Chaos, run: str, strikes: int) -> int | None:
    """Strike up to so many times; return how many are left if `retune ui` is gone, else None."""
    while strikes:
        time.sleep(chaos.random.uniform(1, PAUSE))
        if has_ended(servers, run):
            return None
        struck_by = chaos.strike(run)
        strikes -= bool(struck_by)  # there may be nothing to damage yet
        if struck_by == "everything":
            return strikes
    return None


def has_ended(servers: Servers, run: str) -> bool:
    """Tell whether a run is over; one that found the disk full is retried, as a person does it who has
    made room."""
    name, message = state(servers.home, run)
    if name == "Failed" and any(sentence in message for sentence in SENTENCES):
        time.sleep(SETTLED)
        again = {"type": "SCHEDULED", "name": "AwaitingRetry"}
        servers.api(f"flow_runs/{run}/set_state", {"state": again, "force": True})
        return False
    return name in (*GOOD, "Failed", "Rejected", "Cancelled")
