"""Hosts as network namespaces, each with a folder of its own: lost ones, other numbers of them, torchrun.

A host is a process group that is started as on a cluster: with an environment and a job's file.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from retune.child import EVENTS, _variables
from tasks.train.checkpoints import newest_whole, step_of
from tasks.train.job import TrainJob
from tests.flows.network import SPACES, ip, remove_space, settle, spaces_are_allowed
from tests.tasks.test_train import CRASHED, SHARDED, SPLIT, job_in, losses, wrapped
from tests.tasks.test_train_hosts import CHILD

pytestmark = pytest.mark.proof

# Other tests share theirs, see conftest.py; this one is in another namespace.
OWN = find_spec("retune.forkserver")
forkserver = module_from_spec(OWN)
OWN.loader.exec_module(forkserver)

PORT = "29500"
PATIENCE = 200  # seconds for one training
# As the child, but it notices sooner that a host is lost.
HASTY = """
import runpy
from tasks.train import rendezvous

rendezvous.LOST, rendezvous.START = 8, 60
runpy.run_path({child!r}, run_name="__main__")
"""


class Network:
    """Two hosts on one wire: network namespaces with a bridge between them."""

    def __init__(self, tag: str) -> None:
        self.hub = f"rt{tag}"
        self.names = [f"{self.hub}-{number}" for number in range(2)]
        addresses = [f"10.77.0.{number + 1}" for number in range(2)]
        ip("netns", "add", self.hub)
        ip("-n", self.hub, "link", "add", "wire", "type", "bridge")
        ip("-n", self.hub, "link", "set", "wire", "up")
        for number, name in enumerate(self.names):
            ip("netns", "add", name)
            ends = ("type", "veth", "peer", "name", "eth0", "netns", name)
            ip("-n", self.hub, "link", "add", f"port{number}", *ends)
            ip("-n", self.hub, "link", "set", f"port{number}", "master", "wire", "up")
            # gloo and the store ask for hosts by name.
            settle(name, addresses[number], [f"{one} host-{n}" for n, one in enumerate(addresses)])

    @cache  # noqa: B019
    def server(self, number: int) -> Any:
        """Return what forks a host's processes, in its namespace: each would import for a minute."""
        inside = Path(SPACES, self.names[number], "python")
        inside.write_text(
            f'#!/bin/sh\nexec ip netns exec {inside.parent.name} {sys.executable} "$@"\n'
        )
        inside.chmod(0o755)
        with patch.object(forkserver.sys, "executable", str(inside)):
            return forkserver.ForkServer(_variables(hub=False, variables=None))

    def cut(self, number: int) -> None:
        """Take a host off the wire: nobody hears that its processes end."""
        ip("-n", self.hub, "link", "set", f"port{number}", "down")

    def mend(self, number: int) -> None:
        ip("-n", self.hub, "link", "set", f"port{number}", "up")

    def close(self) -> None:
        for number in range(len(self.names)):
            self.server(number).close()
        for name in (*self.names, self.hub):
            remove_space(name)


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    if not spaces_are_allowed():
        pytest.skip("network namespaces need root")
    network = Network(str(os.getpid()))
    yield network
    network.close()


class Host:
    """A host that trains its share of a job, in a folder of its own."""

    def __init__(self, network: Network, number: int, job: TrainJob) -> None:
        self.network, self.number, self.job = network, number, job
        self.output = job.folder / "host.log"

    def start(self, count: int) -> None:
        """Start the child as one of `count` hosts."""
        told = {"NNODES": str(count), "NODE_RANK": str(self.number)}
        told |= {"MASTER_ADDR": "10.77.0.1", "MASTER_PORT": PORT}
        server = self.network.server(self.number)
        with self.output.open("wb") as output:
            self.process = server.fork(
                [str(self.script()), self.job_file()],
                _variables(hub=False, variables=None) | told,
                output.fileno(),
                (EVENTS, output.fileno()),
            )

    def start_program(self, *command: str) -> None:
        self.process = subprocess.Popen(
            ["ip", "netns", "exec", self.network.names[self.number], *command],
            stdin=subprocess.DEVNULL,
            stdout=self.output.open("w"),
            stderr=subprocess.STDOUT,
            env=_variables(hub=False, variables=None),
            start_new_session=True,
        )

    def job_file(self) -> str:
        file = self.job.folder / "job.json"
        file.write_text(self.job.model_dump_json())
        return str(file)

    def script(self) -> Path:
        return wrapped(self.job.folder, HASTY)

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)

    def wait(self) -> int:
        try:
            return self.process.wait(PATIENCE)
        finally:
            self.kill_quietly()

    def kill_quietly(self) -> None:
        with suppress(ProcessLookupError, AttributeError):  # it may not have been started
            self.kill()

    def until_step(self, step: int) -> None:
        """Wait until the training log has a step."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and self.process.poll() is None:
            if self.job.log.exists() and f'"step": {step},' in self.job.log.read_text():
                return
            time.sleep(0.01)
        raise AssertionError(self.text())

    def text(self) -> str:
        return self.output.read_text()

    def said(self) -> dict:
        """Return the last event that the child printed."""
        events = [line for line in self.text().splitlines() if line.startswith('{"event"')]
        return json.loads(events[-1]) if events else {"event": "none", "text": self.text()}


@pytest.fixture
def hosts(network, at_home, tmp_path):
    """Return a function that makes hosts of the disturbed training; they end with the test."""
    made: list[Host] = []

    def make(count: int, **settings) -> list[Host]:
        for number in range(len(made), count):
            folder = tmp_path / f"host-{number}"
            folder.mkdir(exist_ok=True)
            made.append(Host(network, number, job_in(folder, at_home, **CRASHED | settings)))
        return made[:count]

    yield make
    for host in made:
        network.mend(host.number)
        host.kill_quietly()


def train(hosts: list[Host]) -> None:
    """Train to the end on all hosts."""
    for host in hosts:
        host.start(len(hosts))
    for host in hosts:
        assert host.wait() == 0, host.text()


@pytest.mark.parametrize("how", ["killed", "cut off"])
@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_host_ends_the_other_and_all_go_on(hosts, network, never_killed, lost, how):
    both = hosts(2)
    for host in both:
        host.start(2)
    both[0].until_step(3)
    if how == "cut off":
        network.cut(lost)
    both[lost].kill()
    begin = time.monotonic()
    other = both[1 - lost]
    assert other.wait() == 1, other.text()
    assert time.monotonic() - begin < 60
    error = other.said()
    assert error["refused"], error
    assert f"NODE_RANK={lost} of 2" in error["message"], error["message"]
    assert "start the training again on all hosts" in error["message"]
    network.mend(lost)
    assert step_of(newest_whole(both[0].job.checkpoints)) == 2
    train(both)
    assert losses(both[0].job) == pytest.approx(never_killed, rel=1e-4)


def test_a_process_that_is_killed_is_told_on_the_other_host(hosts):
    both = hosts(2)
    for host in both:
        host.start(2)
    both[0].until_step(3)
    worker = subprocess.run(
        ["pgrep", "-P", str(both[1].process.pid)], capture_output=True, text=True
    ).stdout.split()
    os.kill(int(worker[-1]), signal.SIGKILL)
    assert [host.wait() for host in both] == [1, 1]
    assert "NODE_RANK=1 of 2 failed: process 0 terminated with signal SIGKILL" in both[0].text()


def test_sigterm_to_one_host_ends_all_with_a_checkpoint(hosts, never_killed):
    both = hosts(2, checkpoint_steps=None)
    for host in both:
        host.start(2)
    both[0].until_step(1)
    os.killpg(both[1].process.pid, signal.SIGTERM)
    assert [host.wait() for host in both] == [1, 1]
    for host in both:
        assert "it was told to end by SIGTERM" in host.said()["message"]
    assert step_of(newest_whole(both[0].job.checkpoints)) < 6
    train(both)
    assert losses(both[0].job) == pytest.approx(never_killed, rel=1e-4)


def test_one_host_goes_on_for_two_and_two_for_one(hosts, never_killed):
    both = hosts(2)
    for host in both:
        host.start(2)
    both[0].until_step(3)
    for host in both:
        host.kill()
    alone = both[0]
    alone.job = alone.job.model_copy(
        update={"config": alone.job.config.model_copy(update={"max_gpu_hours": 1e-9})}
    )
    alone.start(1)
    assert alone.wait() == 1
    assert "max_gpu_hours" in alone.said()["message"]
    assert step_of(newest_whole(alone.job.checkpoints)) == 3
    alone.job = both[1].job.model_copy(update={"folder": alone.job.folder})
    # The hosts in the other order: the checkpoint is on the disk of the second.
    both[0].job, both[1].job = both[1].job, both[0].job
    train(both)
    assert losses(both[0].job) == pytest.approx(never_killed, rel=1e-4)


def test_a_model_split_over_hosts_trains_as_one(hosts, never_killed, monkeypatch):
    monkeypatch.setattr(Host, "script", lambda self: wrapped(self.job.folder, SHARDED, half=False))
    both = hosts(2, **SPLIT | {"processes": 1})
    for host in both:
        host.start(2)
    both[0].until_step(3)
    for host in both:
        host.kill()
    checkpoint = newest_whole(both[0].job.checkpoints)
    parts = {path.name for path in checkpoint.rglob("*.distcp")}
    assert {"__0_0.distcp", "__1_0.distcp"} <= parts
    train(both)
    assert losses(both[0].job) == pytest.approx(never_killed, rel=1e-4)
    adapter = both[0].job.folder / "adapter" / "adapter_model.safetensors"
    assert adapter.stat().st_size > 10_000


def test_torchrun_starts_the_processes(hosts, never_killed):
    both = hosts(2)
    for host in both:
        where = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d"]
        where += ["--rdzv-endpoint", f"10.77.0.1:{PORT}", "--rdzv-id", "1"]
        where += ["--rdzv-conf", f"is_host={1 - host.number}"]
        where += ["--local-addr", f"10.77.0.{host.number + 1}"]  # a name is not resolved here
        program = [sys.executable, "-m", "torch.distributed.run", *where, str(CHILD)]
        host.start_program(*program, host.job_file())
    assert [host.wait() for host in both] == [0, 0], both[1].text()
    assert losses(both[0].job) == pytest.approx(never_killed, rel=1e-4)


def test_a_host_with_other_rows_is_refused(hosts, at_home):
    both = hosts(2)
    both[1].job = both[1].job.model_copy(update={"rows": at_home.chats.held_out})
    for host in both:
        host.start(2)
    assert [host.wait() for host in both] == [1, 1]
    for host in both:
        assert "process 1 of 2 has other training rows than process 0" in host.said()["message"]
