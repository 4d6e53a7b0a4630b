"""Stages on the machines of a Ray cluster; `make cluster-test` has the whole line on three hosts."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from expectations import training
from expectations.verdicts import Rejected
from flows import ray_cluster
from flows.forecast import _gpu
from flows.needs import needs_of
from flows.ray_cluster import ClusterError
from flows.starting import require_host
from retune.machine import MachineUnfit
from retune.outputs import Step
from retune.placement import Assignment, HostUnfit
from retune.recipe import Recipe
from retune.store import place
from retune.templates import TemplateRefused
from tests.databases import furnish_prefect
from tests.flows.placed_stage import LOG, STEP
from tests.flows.ray_hosts import Cluster
from tests.flows.servers import wait_for
from tests.infra.stack import use_extra

CPU_HOST = {"CPU": 16.0, "memory": 64 * 2.0**30}
GPU_HOST = CPU_HOST | {"GPU": 2.0, "accelerator_type:H100": 1.0}
SMALL = {"CPU": 2.0, "memory": 8 * 2.0**30}


def recipe(**resources) -> Recipe:
    return Recipe.parse(
        {
            "name": "r",
            "model": {"base": "b", "load_in_4bit": False},
            "training": {"optimizer": "adamw_torch"},
            "dataset": {"source": "d"},
            "infra": {"resources": resources},
        }
    )


class TestNeeds:
    def test_nothing_has_to_be_named(self):
        for stage, gpus, cpus in (("train", 1, 4), ("quantize", 0, 4), ("fetch", 0, 1)):
            needs = needs_of(stage, recipe(), [CPU_HOST, GPU_HOST])
            assert (needs.gpus, needs.cpus) == (gpus, cpus), stage

    def test_where_no_machine_has_a_gpu_none_is_waited_for(self):
        assert needs_of("train", recipe(), [CPU_HOST]).gpus == 0

    def test_what_cannot_be_done_without_a_gpu_waits_for_one(self):
        four_bit = recipe().model_copy(
            update={"model": recipe().model.model_copy(update={"load_in_4bit": True})}
        )
        assert needs_of("train", four_bit, [CPU_HOST]).gpus == 1

    def test_a_training_has_a_gpu_for_each_of_its_processes(self):
        config = recipe().training.model_copy(update={"processes": 4})
        four = recipe().model_copy(update={"training": config})
        assert [needs_of(s, four, [GPU_HOST]).gpus for s in ("train", "evaluate")] == [4, 1]
        assert needs_of("train", four, [CPU_HOST]).gpus == 0

    def test_what_is_usual_is_no_more_than_the_largest_machine_has(self):
        assert needs_of("quantize", recipe(), [SMALL]).cpus == 2
        assert needs_of("quantize", recipe(quantize={"cpus": 9}), [SMALL]).cpus == 9

    def test_what_is_named_is_what_ray_is_asked_for(self):
        named = {"gpus": 2, "gpu_kind": "H100", "cpus": 8, "memory": 32, "disk": 50}
        needs = needs_of("train", recipe(train=named), [CPU_HOST])
        assert needs.options() == {
            "num_cpus": 8, "num_gpus": 2, "accelerator_type": "H100", "memory": 32 * 2**30,
        }  # fmt: skip
        assert needs.disk == 50
        fanned_out = needs_of("quantize", recipe(), [CPU_HOST]).options()
        assert fanned_out["scheduling_strategy"] == "SPREAD"
        assert needs.fit(GPU_HOST)
        assert not needs.fit(CPU_HOST)
        assert not needs.fit(GPU_HOST | {"GPU": 1.0})
        assert not needs._replace(gpu_kind="A100").fit(GPU_HOST)


class TestRefusals:
    @pytest.mark.parametrize("text", ["head", "head:", "http://head:10001", "ray://head", "a b:1"])
    def test_what_is_no_address(self, monkeypatch, text):
        monkeypatch.setenv("RETUNE_CLUSTER", text)
        with pytest.raises(ClusterError, match="write ray://HOST:10001, HOST:6379 or auto"):
            ray_cluster.address()

    @pytest.mark.parametrize(
        "text", ["auto", "head:6379", "ray://10.0.0.1:10001", "[fd00::2]:6379"]
    )
    def test_what_is_one(self, monkeypatch, text):
        monkeypatch.setenv("RETUNE_CLUSTER", text)
        assert ray_cluster.address() == text

    def test_the_doctor_says_what_is_missing(self, monkeypatch, obstore):
        monkeypatch.delenv("RETUNE_CLUSTER", raising=False)
        assert ray_cluster.check_cluster().ok is None
        monkeypatch.setenv("RETUNE_CLUSTER", "auto")
        check = ray_cluster.check_cluster()
        assert check.ok is False
        assert "RETUNE_STORE is not" in check.state
        assert check.fix.startswith("the machines hand each other")
        monkeypatch.setenv("RETUNE_STORE", "nonsense")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
        assert ray_cluster.check_cluster().ok is False
        monkeypatch.setenv("RETUNE_CLUSTER", "a..b:6379")
        monkeypatch.setenv("RETUNE_STORE", "file:///tmp")
        place._opened.cache_clear()
        check = ray_cluster.check_cluster()
        assert (check.ok, check.fix.startswith("start it, or correct")) == (False, True)

    def test_the_doctor_tells_what_machines_have(self):
        assert ray_cluster.described([CPU_HOST]) == "1 machine, 16 CPUs, 0 GPUs"
        both = ray_cluster.described([CPU_HOST, GPU_HOST])
        assert both == "2 machines, 32 CPUs, 2 GPUs (H100)"

    def test_a_cluster_without_a_store_or_a_common_mlflow(self, monkeypatch, tmp_path, obstore):
        monkeypatch.setenv("RETUNE_CLUSTER", "auto")
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        with pytest.raises(ClusterError, match="RETUNE_STORE is not"):
            ray_cluster.require_cluster()
        monkeypatch.setenv("RETUNE_STORE", tmp_path.as_uri())
        with pytest.raises(ClusterError, match="MLFLOW_TRACKING_URI is not"):
            ray_cluster.require_cluster()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
        monkeypatch.setenv("NNODES", "2")
        with pytest.raises(ClusterError, match="NNODES=2 are set"):
            ray_cluster.require_cluster()
        monkeypatch.delenv("NNODES")
        monkeypatch.setattr(ray_cluster, "find_spec", lambda name: None)
        with pytest.raises(ClusterError, match="Ray is not installed"):
            ray_cluster.require_cluster()

    def test_a_replay_stays_on_its_machine(self, monkeypatch, tmp_path):
        monkeypatch.setenv("RETUNE_CLUSTER", "auto")
        monkeypatch.setenv("RETUNE_WORK", str(tmp_path))
        assert not ray_cluster.on_cluster()

    def test_a_host_with_another_store_or_code(self, monkeypatch, tmp_path, obstore):
        def work(store: str, key: dict) -> None:
            step = Step(stage="fetch", key=key)
            with Assignment(store).at_work(recipe(), step, "tasks.fetch.task", print):
                pass

        monkeypatch.setenv("RETUNE_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("RETUNE_STORE", tmp_path.as_uri())
        place._opened.cache_clear()
        with pytest.raises(HostUnfit, match=r"RETUNE_STORE is file:.* there and s3://other for"):
            work("s3://other", {})
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        with pytest.raises(HostUnfit, match="MLFLOW_TRACKING_URI is not set there"):
            work(tmp_path.as_uri(), {})
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
        with pytest.raises(HostUnfit, match=r"has other code than .*\(\w+, \w+, \w+\)"):
            work(tmp_path.as_uri(), {"made with": {"retune.chat": "of an older version"}})
        work(tmp_path.as_uri(), {})


def test_what_a_stage_raises_is_the_same_from_another_machine():
    rejected = Rejected(training.diverged("loss is nan"))
    rejected.add_note("kept")
    again = pickle.loads(pickle.dumps(rejected))
    assert str(again) == str(rejected)
    assert again.judgement == rejected.judgement
    assert again.__notes__ == ["kept"]
    refused = pickle.loads(pickle.dumps(TemplateRefused(3, "it is empty")))
    assert (refused.number, refused.words) == (3, "it is empty")


@pytest.fixture(scope="module")
def variables(tmp_path_factory):
    """What all hosts are told: Ray, a store and a Prefect server."""
    with pytest.MonkeyPatch.context() as patch:
        use_extra("cluster", "ray", patch, "--only-binary", ":all:")
        folder = tmp_path_factory.mktemp("common")
        server = furnish_prefect_server(folder)
        yield {
            "PYTHONPATH": os.environ["PYTHONPATH"],
            "RETUNE_STORE": (folder / "store").as_uri(),
            "MLFLOW_TRACKING_URI": "http://127.0.0.1:1",  # which a stage that counts does not ask
            "PREFECT_API_URL": next(server),
        }
        server.close()


def furnish_prefect_server(folder: Path):
    """Run a Prefect server for the length of a block; yields its address."""
    from tests.flows.servers import ask, free_port

    home, port = furnish_prefect(folder), free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "prefect", "server", "start", "--no-ui", f"--port={port}"],
        env=os.environ | {
            "PREFECT_HOME": str(home / "prefect"), "PREFECT_LOGGING_SERVER_LEVEL": "ERROR",
            "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{home}/prefect/prefect.db",
        },
        stdout=(folder / "prefect.log").open("wb"), stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}/api"

    def is_there() -> bool:
        try:
            return ask(f"{url}/health").status == 200
        except OSError:
            return False

    try:
        wait_for(is_there)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


@pytest.fixture
def cluster(tmp_path, variables):
    hosts = Cluster(tmp_path, variables)
    hosts.start("a", cpus=1)
    hosts.start("b", cpus=1, gpus=1)
    yield hosts
    hosts.stop()
    print(f"the hosts took {hosts.seconds:.0f} CPU s")


class Flow:
    """A run of the flow of `placed_flow` from a home of its own."""

    def __init__(self, cluster: Cluster, steps: int, address: str) -> None:
        (cluster.folder / "flow").mkdir(exist_ok=True)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.flows.placed_flow", str(steps)],
            env=os.environ | cluster.variables | {
                "RETUNE_HOME": str(cluster.folder / "flow"), "RETUNE_CLUSTER": address,
            },
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def end(self) -> str:
        said, _ = self.process.communicate(timeout=300)
        return said


def steps(home: Path) -> list[int]:
    logs = [*home.glob(f"work/train/*/{LOG}")]
    lines = logs[0].read_text().splitlines(keepends=True) if logs else []
    return [json.loads(line)["step"] for line in lines if line.endswith("\n")]


def sent(cluster: Cluster) -> list[int]:
    """Return the steps of the checkpoints that are whole in the store."""
    store = Path(cluster.variables["RETUNE_STORE"].removeprefix("file://"))
    found = store.glob(f"partial/{STEP.name}/checkpoint-*/whole.json")
    return sorted(int(path.parent.name.split("-")[1]) for path in found)


def doctor(cluster: Cluster, address: str) -> str:
    """Return what `retune doctor` says of a cluster."""
    code = "from flows.ray_cluster import check_cluster; print(check_cluster())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | cluster.variables | {"RETUNE_CLUSTER": address},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow  # a cluster of two hosts
@pytest.mark.timeout(900)
def test_a_stage_runs_where_its_gpu_is_leaves_a_checkpoint_and_survives_its_host(cluster):
    assert "2 machines, 2 CPUs, 1 GPU" in doctor(cluster, cluster.address)
    assert "the cluster cannot be reached" in doctor(cluster, f"{cluster.ip}:1")
    begun = Flow(cluster, 10_000, cluster.address)
    wait_for(lambda: len(steps(cluster.folder / "b")) > 2 or begun.process.poll() is not None)
    assert begun.process.poll() is None, begun.end()
    began = time.monotonic()
    begun.process.send_signal(signal.SIGTERM)
    said = begun.end()
    print(f"ended {time.monotonic() - began:.1f} s after SIGTERM")
    first = sent(cluster)[-1]
    assert first == len(steps(cluster.folder / "b")), said
    assert f"the checkpoint of step {first:,} is kept" in said
    assert not steps(cluster.folder / "a")

    total = first + 200  # some 20 s more
    again = Flow(cluster, total, f"ray://{cluster.ip}:{cluster.clients}")
    wait_for(lambda: sent(cluster)[-1] > first or again.process.poll() is not None)
    cluster.kill("b")
    cluster.start("c", cpus=1, gpus=1)
    said = again.end()
    assert again.process.returncode == 0, said
    assert json.dumps({"home": str(cluster.folder / "c")}) in said
    assert steps(cluster.folder / "c") == list(range(1, total + 1))
    (log,) = (cluster.folder / "c").glob(f"work/train/*/{LOG}")
    processes = [json.loads(line)["pid"] for line in log.read_text().splitlines()]
    assert len(set(processes)) == 3  # before it was told to end, on the lost host, and on this one
    assert not [*(cluster.folder / "flow").rglob(LOG)]  # nobody needs it there
    assert not sent(cluster)


def test_a_run_may_begin_on_a_machine_without_a_gpu(monkeypatch):
    """Its stages look for themselves, where they run."""
    four_bit = recipe().model_copy(
        update={"model": recipe().model.model_copy(update={"load_in_4bit": True})}
    )
    monkeypatch.setattr("retune.machine.gpus", tuple)
    monkeypatch.setattr("flows.ray_cluster.require_cluster", lambda: None)
    monkeypatch.delenv("RETUNE_CLUSTER", raising=False)
    with pytest.raises(MachineUnfit, match="load_in_4bit"):
        require_host(four_bit)
    assert _gpu(four_bit)
    monkeypatch.setenv("RETUNE_CLUSTER", "ray://head:10001")
    require_host(four_bit)
    assert _gpu(four_bit) == []
