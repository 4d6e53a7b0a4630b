"""Training on several hosts: each with a folder of its own, here on one machine's loopback."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from retune.child import ChildRefused, run_child
from retune.environment import ROOT
from retune.recipe import Training
from tasks.train import fitting, hosts
from tasks.train.checkpoints import newest_whole
from tasks.train.hosts import Hosts, hosts_of, is_launched, of_run
from tasks.train.job import TrainingRefused
from tasks.train.joining import join
from tasks.train.rendezvous import HostLost
from tasks.train.task import may_go_on, run_training
from tests.tasks.test_train import CRASHED, job_in, losses, wrapped

CHILD = ROOT / "tasks" / "train" / "trl_child.py"
TWO = {"NNODES": "2", "NODE_RANK": "0", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}


class TestEnvironment:
    def test_without_a_launcher_a_machine_is_alone(self):
        assert not is_launched({})
        alone = hosts_of(3, {"MASTER_ADDR": "10.0.0.1"})
        assert alone == Hosts(3, 1, 0, "127.0.0.1", alone.port)
        assert of_run(Training(), {"RANK": "0", "WORLD_SIZE": "1", "NNODES": "1"}) == {}

    def test_each_process_of_each_host_has_a_number_of_its_own(self):
        both = [hosts_of(4, TWO | {"NODE_RANK": number}) for number in "01"]
        told = [ours.variables(local) for ours in both for local in range(4)]
        assert [one["RANK"] for one in told] == list("01234567")
        assert {(one["WORLD_SIZE"], one["LOCAL_WORLD_SIZE"]) for one in told} == {("8", "4")}
        assert {(one["MASTER_ADDR"], one["MASTER_PORT"]) for one in told} == {("10.0.0.1", "29500")}
        assert hosts_of(4, both[1].told()) == both[1]

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            (
                {"MASTER_PORT": ""},
                r"NNODES=2 says that 2 hosts train together, but MASTER_PORT is not",
            ),
            (
                {"MASTER_ADDR": "", "NODE_RANK": ""},
                "NODE_RANK, MASTER_ADDR are not set; all of NNODES",
            ),
            ({"NODE_RANK": "2"}, "NODE_RANK=2 of NNODES=2 hosts: they are numbered from 0 to 1"),
            ({"NNODES": "1:4"}, "NNODES=1:4: a whole number from 1 on is needed"),
            ({"NODE_RANK": "-1"}, "NODE_RANK=-1: a whole number from 0 on"),
        ],
    )
    def test_half_of_what_hosts_need_is_refused(self, changes, words):
        with pytest.raises(TrainingRefused, match=words):
            hosts_of(1, TWO | changes)

    def test_half_of_what_processes_need_is_refused(self):
        with pytest.raises(
            TrainingRefused, match=r"WORLD_SIZE=2 .* RANK, LOCAL_RANK, MASTER_ADDR, M"
        ):
            is_launched({"WORLD_SIZE": "2"})
        with pytest.raises(TrainingRefused, match="MASTER_PORT is not set"):
            names = dict.fromkeys(hosts.OF_PROCESSES[:-1], "1")
            is_launched(names | {"WORLD_SIZE": "2"})

    def test_what_would_train_twice_is_refused(self):
        trl = Training(backend="trl", optimizer="adamw_torch")
        assert of_run(trl, TWO) == TWO
        with pytest.raises(TrainingRefused, match=r"NODE_RANK=1: start `retune join`"):
            of_run(trl, TWO | {"NODE_RANK": "1"})
        with pytest.raises(TrainingRefused, match="started as one of WORLD_SIZE=2 processes"):
            of_run(trl, {"WORLD_SIZE": "2", "RANK": "1"})
        with pytest.raises(TrainingRefused, match=r"set training\.backend=trl"):
            of_run(Training(), TWO)

    def test_unsloth_in_two_places_is_refused_by_its_child(self, at_home, tmp_path):
        job = job_in(tmp_path, at_home, backend="unsloth")
        with pytest.raises(
            ChildRefused, match=r"2 hosts or processes .*; set training\.backend=trl"
        ):
            run_training(job, lambda event: None, TWO)
        assert "Unsloth" not in job.folder.joinpath("train.log").read_text().replace("unsloth", "")


@pytest.mark.parametrize("processes", [3, 5, 24])
def test_a_batch_that_cannot_be_shared_equally_is_refused(processes):
    config = Training(backend="trl", batch_size=8, gradient_accumulation=2)
    words = rf"{processes} processes cannot share the effective batch of 16 .*can: 1, 2, 4, 8, 16$"
    with pytest.raises(TrainingRefused, match=words):
        fitting.as_written(config, processes)


@pytest.mark.parametrize("processes", [1, 2, 4, 8, 16])
def test_the_effective_batch_is_the_same_however_it_is_shared(processes):
    config = Training(backend="trl", batch_size=8, gradient_accumulation=2)
    fit = fitting.as_written(config, processes)
    assert fit.batch_size * fit.gradient_accumulation * processes == 16


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def on_hosts(jobs, script=CHILD, on_event=lambda number, event: None):
    """Run a job on each of several hosts; return what each host's child returned or raised."""
    port = free_port()

    def run(number):
        job = jobs[number]
        told = Hosts(job.config.processes, len(jobs), number, "127.0.0.1", port).told()
        try:
            return run_child(
                *(script, job, job.folder / "child.log"),
                on_event=lambda event: on_event(number, event),
                env=told,
                forked=True,
            )
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(jobs)) as threads:
        return list(threads.map(run, range(len(jobs))))


def jobs_in(folder, project, count=2, **settings):
    """Return the job of each host, with a folder of its own."""
    folders = [folder / f"host-{number}" for number in range(count)]
    for one in folders:
        one.mkdir()
    return [job_in(one, project, **CRASHED | settings) for one in folders]


def test_two_hosts_of_one_process_train_one_model(at_home, tmp_path, never_killed):
    jobs = jobs_in(tmp_path, at_home)
    first, second = on_hosts(jobs)
    assert first["metrics"]["steps"] == 6, first
    assert second["metrics"] == {}, second
    assert losses(jobs[0]) == pytest.approx(never_killed, rel=1e-4)
    assert not jobs[1].log.exists()
    # Each process's part is where the checkpoint is, and nothing is left elsewhere.
    checkpoint = newest_whole(jobs[0].checkpoints)
    assert {path.name for path in checkpoint.glob("rng_state*")} == {
        f"rng_state_{n}.pth" for n in "01"
    }
    assert not [*jobs[1].checkpoints.glob("checkpoint-*")]


@pytest.mark.parametrize("address", ["no-such-host.invalid", "a..b"])
def test_a_host_that_nobody_knows_is_named_at_once(at_home, capsys, address):
    """A training may wait for it for a day; in a cluster a name may still appear."""
    with pytest.raises(HostLost, match="is not known here"):
        join(Hosts(1, 2, 1, address, 29_500), timedelta(seconds=0.1))
    (said,) = capsys.readouterr().out.splitlines()
    assert said.startswith(f"waiting for a training at MASTER_ADDR={address}, MASTER_PORT=29500; ")
    assert "correct it, unless it is yet to appear" in said


@pytest.mark.proof
def test_a_host_joins_the_training_of_another(at_home, tmp_path, monkeypatch, never_killed):
    job = job_in(tmp_path / "first", at_home, **CRASHED)
    job.folder.mkdir()
    monkeypatch.setenv("RETUNE_HOME", str(tmp_path / "home"))
    port = free_port()
    both = [Hosts(1, 2, number, "127.0.0.1", port) for number in (0, 1)]
    # As on another disk: what it has of the files is another one.
    monkeypatch.setattr(
        "tasks.train.handover._identity", lambda path: [id(object()), time.time_ns()]
    )
    with ThreadPoolExecutor(1) as threads:
        joined = threads.submit(join, both[1], timedelta(minutes=5))
        result = run_training(job, lambda event: None, both[0].told())
        joined.result()
    assert result["metrics"]["steps"] == 6
    assert losses(job) == pytest.approx(never_killed, rel=1e-4)
    assert not [*(tmp_path / "home" / "joined").glob("*/*")]


# As Ray Train calls it: Python lets no other thread than the first handle signals.
IN_A_THREAD = """
import runpy
from concurrent.futures import ThreadPoolExecutor

with ThreadPoolExecutor(1) as threads:
    threads.submit(runpy.run_path, {child!r}, run_name="__main__").result()
"""


def test_a_training_runs_in_any_thread(at_home, tmp_path):
    job = job_in(tmp_path, at_home)
    script = wrapped(tmp_path, IN_A_THREAD)
    result = run_child(script, job, tmp_path / "child.log", forked=True)
    assert result["metrics"]["steps"] == 2


def test_a_run_tries_again_after_it_lost_a_host():
    from prefect.states import Failed

    assert may_go_on(None, None, Failed(data=HostLost("x")))
    assert not may_go_on(None, None, Failed(data=TrainingRefused("x")))
