"""The whole line on three hosts, of which one after the other is lost: it ends as on one machine.

The hosts are network namespaces, blind to each other's homes; Prefect and MLflow are on PostgreSQL, the
store is an S3 server, Ray places the stages. `make cluster-test`.
"""

import configparser
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.databases import furnish
from tests.flows.network import SERVERS, Wire, relayed, spaces_are_allowed
from tests.flows.ray_hosts import Cluster
from tests.flows.servers import RETUNE, wait_for
from tests.flows.test_line import GATES, Project
from tests.infra import stack as stacks
from tests.infra.stack import Stack, use_extra

pytestmark = [pytest.mark.proof, pytest.mark.timeout(7200)]

HOSTS = {"a": (2, 0), "b": (2, 1), "c": (2, 0)}  # CPUs and GPUs; the first one is the head
STEPS, EVERY = 60, 5  # of the training, and between two of its checkpoints
PATIENCE = 2400  # seconds for a run, on a loaded machine
MADE = (".safetensors", ".gguf", ".parquet")
COMPARED = ("fetch", "validate", "format", "train", "merge", "convert", "quantize")
# Sums of floats depend on how many threads share them.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="module", autouse=True)
def _extra() -> Iterator[None]:
    if not spaces_are_allowed():
        pytest.skip("network namespaces need root")
    with pytest.MonkeyPatch.context() as patch:
        use_extra("cluster", "ray", patch, "--only-binary", ":all:")
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cluster")


@pytest.fixture(scope="module")
def recipe(folder) -> Path:
    """The small line, with paths that all hosts have."""
    (folder / "project").mkdir()
    project = Project(folder / "project")
    recipe = yaml.safe_load((project.folder / "recipe.yaml").read_text())
    recipe["model"]["base"] = str(project.folder / "base")
    recipe["dataset"]["source"] = str(project.folder / "good.jsonl")
    recipe["training"] |= {"backend": "trl", "max_steps": STEPS, "checkpoint_steps": EVERY}
    recipe["evaluation"] |= {"battery": False}  # so many steps teach it to repeat itself
    gates = {method: GATES[method] for method in ("q2_k", "q4_k_m", "q8_0")}
    recipe["quantization"] |= {"methods": [*gates], "gates": gates}
    (project.folder / "line.yaml").write_text(yaml.safe_dump(recipe))
    return project.folder / "line.yaml"


@pytest.fixture(scope="module")
def wire(folder) -> Iterator[Wire]:
    for host in HOSTS:
        (folder / host).mkdir()
    wire = Wire([*HOSTS], folder)
    yield wire
    wire.close()


@pytest.fixture(scope="module")
def servers(folder, wire) -> Iterator[Stack]:
    """Prefect, MLflow and the S3 server, on the loopback and on the wire."""
    place = folder / "stack"
    place.mkdir()
    with ExitStack() as running:
        stack = running.enter_context(stacks.databases(place))
        for service in ("objects", "prefect", "mlflow"):
            command = stacks._store(stack) if service == "objects" else stack.command(service)
            known = f",{SERVERS}:{stack.ports['mlflow']}"
            words = [f"{word}{known * word.startswith('--allowed-hosts')}" for word in command]
            # Clients get addresses of the S3 server from MLflow: these must be anybody's.
            objects = f"http://{wire.own_address}:{stack.ports['objects']}"
            running.callback(
                stacks.end, stack.start(service, *words, MLFLOW_S3_ENDPOINT_URL=objects)
            )
            running.enter_context(relayed(wire.own_address, stack.ports[service]))
        for url in (
            f"{stack.url('objects')}/healthz", f"{stack.url('prefect')}/api/health",
            f"{stack.url('mlflow')}/health",
        ):  # fmt: skip
            wait_for(lambda url=url: stacks.answers(url))
        yield stack


def keys(stack: Stack) -> dict[str, str]:
    """Return what reaches the S3 server, from this machine."""
    parser = configparser.ConfigParser()
    parser.read(stack.folder / "secrets" / "s3_credentials")
    return {
        "AWS_ENDPOINT_URL": stack.url("objects"), "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": parser["default"]["aws_access_key_id"],
        "AWS_SECRET_ACCESS_KEY": parser["default"]["aws_secret_access_key"],
    }  # fmt: skip


class Line:
    """A run of the small line over three hosts, with a store of its own."""

    def __init__(self, name: str, folder: Path, stack: Stack, wire: Wire, recipe: Path) -> None:
        self.folder, self.stack, self.wire, self.recipe = folder, stack, wire, recipe
        self.store = f"s3://outputs/{name}"
        self._store().write("begun", b"")  # this server makes a bucket with its first file
        here = stack.environment("worker") | keys(stack)
        there = {name: value.replace("127.0.0.1:", f"{SERVERS}:") for name, value in here.items()}
        ours = {"PYTHONPATH": os.environ["PYTHONPATH"], "RETUNE_STORE": self.store}
        self.cluster = Cluster(folder, there | ours | ONE_THREAD, wire.address("a"))
        self._process: subprocess.Popen[bytes] | None = None

    def begin_hosts(self) -> None:
        for host in HOSTS:
            self.begin_host(host)

    def begin_host(self, host: str) -> None:
        """Start a host with an empty home, as a machine that takes another one's place."""
        home = self.folder / host
        for path in home.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        cpus, gpus = HOSTS[host]
        inside = [str(stacks.ENTRYPOINT), *self.wire.inside(host)]
        self.cluster.start(host, cpus, gpus, inside, self.wire.address(host))

    def lose(self, host: str) -> None:
        self.wire.kill(host)
        self.cluster.hosts.pop(host).wait(60)

    def end_hosts(self) -> None:
        for host in [*self.cluster.hosts]:
            self.lose(host)

    def begin(self) -> None:
        """Begin the run on the host of Ray's head."""
        home = self.folder / "a"
        self.log = self.folder / "run.log"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [stacks.ENTRYPOINT, *self.wire.inside("a"), RETUNE, "run", str(self.recipe)],
                env=os.environ | self.cluster.variables | {
                    "RETUNE_HOME": str(home), "RETUNE_CLUSTER": self.cluster.address,
                },
                cwd=self.recipe.parent, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def until(self, holds: Callable[[], Any]) -> None:
        """Wait for something that a run at work does."""
        assert self._process
        end = time.monotonic() + PATIENCE
        while not holds():
            assert self._process.poll() is None, self.said()
            assert time.monotonic() < end, self.said()
            time.sleep(0.2)

    def ended(self) -> int:
        assert self._process
        return self._process.wait(PATIENCE)

    def said(self) -> str:
        return self.log.read_text()[-6000:]

    def files(self) -> list[str]:
        """Return the names of what is in the store."""
        return [one.name for one in self._store().list("")]

    def made(self) -> dict[str, str]:
        """Return the sha256 of what was made, by stage, fingerprint and file."""
        store = self._store()
        records = [name for name in self.files() if name.endswith("/output.json")]
        return {
            f"{name.removesuffix('/output.json')}/{file}": entry["sha256"]
            for name in records
            for file, entry in json.loads(store.read(name))["manifest"].items()
            if is_compared(name, file)
        }

    def checkpoint_is_sent(self) -> bool:
        return any(name.endswith("/whole.json") for name in self.files())

    def quantizes(self, host: str) -> bool:
        return any((self.folder / host / "work" / "quantize").glob("*.partial"))

    def _store(self) -> Any:
        from retune.store.place import Store

        with pytest.MonkeyPatch.context() as patch:
            for name, value in keys(self.stack).items():
                patch.setenv(name, value)
            return Store(self.store)


def is_compared(record: str, file: str) -> bool:
    return record.partition("/")[0] in COMPARED and file.endswith(MADE)


@pytest.fixture(scope="module")
def undisturbed(folder, recipe) -> dict[str, str]:
    """The sha256 of what the line makes on one machine, without a cluster or a store."""
    home = furnish(folder / "alone")
    done = subprocess.run(
        [RETUNE, "run", str(recipe)],
        cwd=recipe.parent, env=Project.environment() | {"RETUNE_HOME": str(home)} | ONE_THREAD,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    made = {}
    for record in (home / "work").glob("*/*/output.json"):
        name = str(record.relative_to(home / "work"))
        for file, entry in json.loads(record.read_text())["manifest"].items():
            if is_compared(name, file):
                made[f"{name.removesuffix('/output.json')}/{file}"] = entry["sha256"]
    return made


@pytest.fixture
def line(request, folder, servers, wire, recipe) -> Iterator[Line]:
    line = Line(request.node.name[-8:], folder, servers, wire, recipe)
    line.begin_hosts()
    yield line
    line.end_hosts()


def mlflow_runs(stack: Stack) -> list[tuple[str, str]]:
    """Return name and status of the runs that are nobody's children, the newest last."""
    found = stacks.query(
        stack, "mlflow", "mlflow",
        "select name || '|' || status from runs where run_uuid not in (select run_uuid from tags "
        "where key = 'mlflow.parentRunId') order by start_time",
    )  # fmt: skip
    return [tuple(line.split("|")) for line in found.splitlines()]


def test_a_line_that_loses_its_gpu_host_and_a_host_of_the_fan_out(line, undisturbed):
    line.begin()
    line.until(line.checkpoint_is_sent)
    line.lose("b")
    line.begin_host("b")
    line.until(lambda: line.quantizes("c"))
    line.lose("c")
    assert line.ended() == 0, line.said()
    assert line.made() == undisturbed
    assert "going on from the checkpoint of step" in line.log.read_text()
    (run,) = mlflow_runs(line.stack)
    assert run[1] == "FINISHED"


def test_a_line_that_loses_its_head_goes_on_when_it_is_run_again(line, undisturbed):
    before = len(mlflow_runs(line.stack))
    line.begin()
    line.until(line.checkpoint_is_sent)
    line.lose("a")
    line.ended()
    line.end_hosts()
    line.begin_hosts()
    line.begin()
    assert line.ended() == 0, line.said()
    assert line.made() == undisturbed
    runs = mlflow_runs(line.stack)[before:]
    assert [status for _, status in runs] == ["FINISHED"]  # the same run of MLflow's
