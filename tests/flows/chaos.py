"""Kills and outages at random moments of runs under `retune ui`, and what must be true afterwards.

The processes of a home folder are known by their environment, so that nothing else is touched.
"""

import hashlib
import random
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from tests.flows.clock import Clock
from tests.flows.postgres import Postgres, select
from tests.flows.servers import Servers, wait_for
from tests.flows.small_disk import Ballast

SERVICES = {"server": ("prefect", "server"), "mlflow": ("mlflow", "server"), "worker": ("worker",)}
OUTAGE = 20  # seconds
PATIENCE = 1500  # seconds for a run to end, on a loaded machine
# A run that is ended again and again waits for minutes before it is begun again: see `flows.watchdog`.
FATAL = ("run", "told", "everything", "disk")
OF_FATAL, OF_A_KIND = 2, 3  # within one run, at most
JUMPS = (-7200, -30, 7200)  # seconds
ON_POSTGRES = "on-postgres"  # in a home folder: the address of Prefect's database
GOOD = ("Promoted", "Equivalent", "Undecided", "Registered", "Barred")


def processes(home: Path) -> Iterator[psutil.Process]:
    """Give the processes that work for a home folder."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("RETUNE_HOME") == str(home):
                yield process


def service(home: Path, name: str) -> list[psutil.Process]:
    """Return the processes of a server or worker, its children last."""
    found = []
    for process in processes(home):
        with suppress(psutil.Error):
            words = " ".join(process.cmdline()[:4])
            is_it = all(word in words for word in SERVICES[name]) and "flows.cli" not in words
            if is_it and "PREFECT__FLOW_RUN_ID" not in process.environ():
                children = [] if name == "worker" else process.children(recursive=True)
                found += [process, *children]
    return found


def of_run(home: Path, run: str) -> list[psutil.Process]:
    """Return the process of a flow run."""
    found = []
    for process in processes(home):
        with suppress(psutil.Error):
            engine = "prefect" in " ".join(process.cmdline())
            if process.environ().get("PREFECT__FLOW_RUN_ID") == run and engine:
                found.append(process)
    return found


def stage_processes(home: Path, run: str) -> list[psutil.Process]:
    """Return what the run has started: stages, their fork server, llama.cpp."""
    started = []
    for process in of_run(home, run):
        with suppress(psutil.Error):
            started += process.children(recursive=True)
    return started


class Chaos:
    """Does one kind of damage at a time; each returns whether there was anything to damage."""

    def __init__(
        self, home: Path, seed: int, more: "Sequence[Damage]" = (), only: Sequence[str] = ()
    ) -> None:
        """`only`: the kinds that are done, all without it."""
        self.home, self.random, self.only = home, random.Random(seed), only
        self.more = {damage.name: damage for damage in more}
        self.done: list[str] = []
        self._in_run: Counter[str] = Counter()

    def next_run(self) -> None:
        """Begin to count anew: a service that ends more often than this is given up, rightly."""
        self._in_run.clear()

    def strike(self, run: str) -> str:
        """Do something at random to a run or what it needs, and return what was done; "" if each of
        what is left to be done in a run finds nothing at the moment."""
        kinds = ["run", "child", "worker", "server", "mlflow", "told", "outage", "everything"]
        kinds += self.more
        kinds = [kind for kind in kinds if not self.only or kind in self.only]
        self.random.shuffle(kinds)
        for kind in kinds:
            if self._is_enough(kind):
                continue
            damage = self.more[kind].do if kind in self.more else getattr(self, f"_{kind}")
            if damage(run):
                self.done.append(kind)
                self._in_run[kind] += 1
                return kind
        return ""

    def _is_enough(self, kind: str) -> bool:
        fatal = sum(self._in_run[name] for name in FATAL)
        return self._in_run[kind] >= OF_A_KIND or (kind in FATAL and fatal >= OF_FATAL)

    def _run(self, run: str) -> bool:
        return _kill(of_run(self.home, run))

    def _child(self, run: str) -> bool:
        started = stage_processes(self.home, run)
        return bool(started) and _kill([self.random.choice(started)])

    def _worker(self, _run: str) -> bool:
        return _kill(service(self.home, "worker"))

    def _server(self, _run: str) -> bool:
        return _kill(service(self.home, "server"))

    def _mlflow(self, _run: str) -> bool:
        return _kill(service(self.home, "mlflow"))

    def _told(self, run: str) -> bool:
        """End the run as a system that goes down does."""
        return _send(of_run(self.home, run), signal.SIGTERM)

    def _outage(self, _run: str) -> bool:
        """Let both servers hang for a while."""
        hanging = [*service(self.home, "server"), *service(self.home, "mlflow")]
        _send(hanging, signal.SIGSTOP)
        time.sleep(OUTAGE)
        return _send(hanging, signal.SIGCONT)

    def _everything(self, _run: str) -> bool:
        """As a power cut; whoever strikes starts `retune ui` again."""
        return _kill(list(processes(self.home)))


class Damage(NamedTuple):
    """What can be done to more than processes, where this machine allows it."""

    name: str
    do: Callable[[str], bool]


def of_postgres(postgres: Postgres) -> Damage:
    """Kill PostgreSQL, all of its processes at once, and start it again."""

    def kill(_run: str) -> bool:
        postgres.kill()
        return True

    return Damage("postgres", kill)


def of_disk(ballast: Ballast) -> Damage:
    """Let the disk be full for a while."""

    def fill(_run: str) -> bool:
        with ballast.filling():
            time.sleep(OUTAGE)
        ballast.drop()
        return True

    return Damage("disk", fill)


def of_clock(home: Path, clock: Clock, seed: int) -> Damage:
    """Let the clock jump. Back only while a run is at work: of one that is to begin at a time, that
    time would be hours away."""
    randomness = random.Random(seed)

    def jump(run: str) -> bool:
        by = randomness.choice(JUMPS)
        if by < 0 and state(home, run)[0] != "Running":
            return False
        clock.set(clock.seconds + by)
        return True

    return Damage("clock", jump)


def _kill(victims: list[psutil.Process]) -> bool:
    return _send(victims, signal.SIGKILL)


def _send(victims: list[psutil.Process], number: int) -> bool:
    for victim in victims:
        with suppress(psutil.NoSuchProcess):
            victim.send_signal(number)
    return bool(victims)


# What is there afterwards.


def rows(file: Path, query: str, *values: Any) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(file, timeout=60)) as database:
        return database.execute(query, values).fetchall()


def prefect_rows(home: Path, query: str, *values: Any) -> list[tuple[Any, ...]]:
    """Ask Prefect's database, wherever a home folder has it."""
    address = home / ON_POSTGRES
    if address.exists():
        return select(address.read_text(), query, *values)
    return rows(home / "prefect" / "prefect.db", query, *values)


def state(home: Path, run: str) -> tuple[str, str]:
    """Return the name and message of a flow run's state."""
    query = (
        "select r.state_name, coalesce(s.message, '') from flow_run r "
        "join flow_run_state s on r.state_id = s.id where r.id = ?"
    )
    (found,) = prefect_rows(home, query, run)
    return found


def left_open(home: Path) -> dict[str, Any]:
    """Return what a home folder still has open: all of it is to be empty once its runs have ended."""
    kinds = "state_type in ('RUNNING', 'PENDING', 'CANCELLING')"
    working = []
    for process in processes(home):
        with suppress(psutil.Error):
            name = process.name()
            if name.startswith(("retune-", "llama-")) or "forkserver" in " ".join(
                process.cmdline()
            ):
                working.append(f"{process.pid} {name}")
    return {
        "flow runs": prefect_rows(home, f"select name from flow_run where {kinds}"),
        "slots": prefect_rows(home, "select name from concurrency_limit_v2 where active_slots > 0"),
        "processes": working,
        "partial outputs": [str(path) for path in home.glob("work/*/*.partial/output.json")],
    }


def outputs(home: Path) -> dict[str, str]:
    """Return a hash of what was made: adapter, merged model, GGUF files but for the name in them."""
    weights = ("train/*/adapter/*.safetensors", "merge/*/model/*.safetensors")
    hashes = {file.name: _sha256(file.read_bytes()) for file in _whole(home, *weights)}
    return hashes | {file.name: _contents(file) for file in _whole(home, "*/*/*-*.gguf")}


def _whole(home: Path, *patterns: str) -> list[Path]:
    files = [file for pattern in patterns for file in (home / "work").glob(pattern)]
    return [file for file in sorted(files) if ".partial" not in str(file)]


def _contents(file: Path) -> str:
    """Return a hash of a GGUF file without the model's name, which is the recipe's."""
    from gguf import GGUFReader

    read = GGUFReader(file)
    fields = {name: str(field.contents()) for name, field in read.fields.items()}
    fields.pop("general.name")
    tensors = {tensor.name: _sha256(tensor.data.tobytes()) for tensor in read.tensors}
    return _sha256(str((sorted(fields.items()), tensors)).encode())


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def curves(home: Path, recipe: str) -> dict[str, list[int]]:
    """Return the steps of the training's loss in each MLflow run of a recipe, in order."""
    database = home / "mlflow.db"
    runs = rows(
        database,
        "select r.run_uuid, r.status from runs r join experiments e using (experiment_id) "
        "where e.name = ? and r.run_uuid not in "
        "(select run_uuid from tags where key = 'mlflow.parentRunId')",
        recipe,
    )
    query = "select step from metrics where run_uuid = ? and key = 'train/loss' order by step"
    return {f"{run} {status}": [s for (s,) in rows(database, query, run)] for run, status in runs}


def begin(servers: Servers, recipe: dict[str, Any]) -> str:
    """Start a run of the deployment `demo` with another recipe, and return its id; a server that says
    that it is busy is asked again."""
    demo = servers.deployment("demo")
    wanted = {"parameters": recipe, "idempotency_key": recipe["name"]}

    def created() -> str:
        with suppress(AssertionError):
            return servers.api(f"deployments/{demo}/create_flow_run", wanted)["id"]
        return ""

    return wait_for(created, 120)
