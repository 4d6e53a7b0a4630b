"""What starts work on several hosts: Slurm's scripts, pods that join a training, and those of Ray."""

import json
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
import yaml

from tasks.train.hosts import OF_HOSTS
from tests.flows.servers import wait_for
from tests.infra.deployed import INFRA, commands, patience, require_command
from tests.infra.test_kubernetes import TEMPLATE, require_valid

SLURM, RAY_SLURM = INFRA / "slurm" / "train.sbatch", INFRA / "slurm" / "ray.sbatch"
RAY_CLUSTER, POLICY = yaml.safe_load_all((INFRA / "kubernetes" / "ray-cluster.yaml").read_text())
SERVICE, JOIN = yaml.safe_load_all((INFRA / "kubernetes" / "join.yaml").read_text())
# Tells what it was started as; a run ends when it is told to, a host that joins waits.
RETUNE = """#!/bin/bash
echo "$* $NNODES $NODE_RANK $MASTER_ADDR $MASTER_PORT" >> "$TOLD"
if [ "$1" = join ] || [ "$RUNS" = on ]; then
  trap 'echo "$1 was told to end" >> "$TOLD"; exit 1' TERM
  while true; do sleep 0.1; done
fi
exit "$RUNS"
"""
# Starts the command once for each task, as on the other nodes.
SRUN = """#!/bin/bash
echo "srun $*" >> "$TOLD.srun"
trap 'exit 143' TERM
trap 'kill $(jobs -p) 2>/dev/null' EXIT
until [ "$1" = bash ] || [ "$1" = .venv/bin/ray ]; do
  case "$1" in --ntasks=*) tasks=${1#*=};; esac
  shift
done
for task in $(seq 0 $((tasks - 1))); do SLURM_PROCID=$task "$@" & done
wait
"""


# Is there once its head was started.
RAY = """#!/bin/bash
if [ "$1" = status ]; then grep -q "ray start --head" "$TOLD" 2>/dev/null; exit; fi
echo "ray $*" >> "$TOLD"
trap 'echo "ray was told to end" >> "$TOLD"; exit 1' TERM
while true; do sleep 0.1; done
"""


class Allocation:
    """A script of Slurm's on its first node, with stand-ins for what it starts."""

    def __init__(self, folder: Path, nodes: int, runs: str, script: Path = SLURM) -> None:
        self.told = folder / "told"
        ours = folder / ".venv" / "bin"
        programs = {"retune": ours / "retune", "ray": ours / "ray", "srun": folder / "bin" / "srun"}
        for name, text in (("retune", RETUNE), ("ray", RAY), ("srun", SRUN)):
            programs[name].parent.mkdir(parents=True, exist_ok=True)
            programs[name].write_text(text)
            programs[name].chmod(0o755)
        secrets = folder / "environment"
        secrets.write_text("HF_TOKEN=x\n")
        secrets.chmod(0o600)
        self.process = subprocess.Popen(
            ["bash", script, "recipe.yaml", "--name", "x"],
            env={"PATH": f"{folder / 'bin'}:/usr/bin:/bin", "HOME": str(folder), "TOLD": str(self.told),
                 "USER": "u", "RUNS": runs, "RETUNE_ENVIRONMENT": str(secrets),
                 "RETUNE_CHECKOUT": str(folder),
                 "SLURM_NNODES": str(nodes), "SLURMD_NODENAME": "node7", "SLURM_JOB_ID": "123456"},
        )  # fmt: skip

    def lines(self, count: int) -> list[str]:
        """Return what was told once there are so many lines, sorted."""
        end = time.monotonic() + 30
        while time.monotonic() < end:
            lines = self.told.read_text().splitlines() if self.told.exists() else []
            if len(lines) >= count:
                break
            time.sleep(0.05)
        return sorted(lines)


def _at_work(folder: Path) -> list[psutil.Process]:
    """Return the processes whose command names the folder."""
    there = psutil.process_iter(["cmdline"])
    return [one for one in there if str(folder) in " ".join(one.info["cmdline"] or ())]


class TestSlurm:
    def test_the_run_is_on_the_first_node_and_the_others_join_it(self, tmp_path):
        allocation = Allocation(tmp_path, nodes=3, runs="on")
        joins = [f"join 3 {number} node7 23456" for number in (1, 2)]
        assert allocation.lines(3) == [*joins, "run recipe.yaml --name x 3 0 node7 23456"]
        assert "--exclude=node7" in Path(f"{allocation.told}.srun").read_text()
        allocation.process.send_signal(signal.SIGTERM)
        assert allocation.process.wait(30) == 1
        assert "run was told to end" in allocation.lines(5)

    @pytest.mark.parametrize("code", [0, 2])
    def test_hosts_that_joined_nothing_do_not_outlive_the_run(self, tmp_path, code):
        allocation = Allocation(tmp_path, nodes=2, runs=str(code))
        assert allocation.process.wait(30) == code
        wait_for(lambda: not _at_work(tmp_path), 30)

    def test_one_node_alone_needs_no_other(self, tmp_path):
        allocation = Allocation(tmp_path, nodes=1, runs="0")
        assert allocation.process.wait(30) == 0
        assert allocation.lines(1) == ["run recipe.yaml --name x 1 0 node7 23456"]

    def test_rays_head_is_beside_the_run_and_its_hosts_are_on_the_other_nodes(self, tmp_path):
        allocation = Allocation(tmp_path, 3, "on", RAY_SLURM)
        host = "ray start --block --disable-usage-stats --address=node7:23456"
        head = "ray start --head --block --disable-usage-stats --port=23456"
        lines = allocation.lines(4)
        assert lines[:3] == [host, host, head]
        assert lines[3].startswith("run recipe.yaml --name x")
        asked = Path(f"{allocation.told}.srun").read_text()
        assert "--nodelist=node7" in asked
        assert "--nodes=2 --ntasks=2 --exclude=node7" in asked
        allocation.process.send_signal(signal.SIGTERM)
        assert allocation.process.wait(30) == 1
        assert "run was told to end" in allocation.lines(5)

    @pytest.mark.parametrize("script", [SLURM, RAY_SLURM])
    def test_the_run_hears_of_the_end_in_time_and_the_commands_exist(self, script):
        text = script.read_text()
        before = int(text.partition("--signal=B:TERM@")[2].split()[0])
        assert before >= patience() + 60
        for line in text.splitlines():
            for name in ("retune run", "retune join"):
                if name in line and not line.startswith("#"):
                    require_command(name.split())


class TestKubernetes:
    def test_the_pods_that_join_are_some_of_kubernetes(self):
        for document in (SERVICE, JOIN):
            require_valid(document)

    def test_they_find_the_runs_pod_by_its_label(self):
        assert SERVICE["spec"]["clusterIP"] == "None"
        (container,) = JOIN["spec"]["template"]["spec"]["containers"]
        told = {one["name"]: one.get("value") for one in container["env"]}
        assert told["MASTER_ADDR"] == SERVICE["metadata"]["name"]
        assert (
            int(told["NNODES"])
            == JOIN["spec"]["completions"] + 1
            == JOIN["spec"]["parallelism"] + 1
        )
        line = container["command"][-1]
        assert set(OF_HOSTS) <= told.keys() | {line.partition("=")[0]}
        (command,) = commands(line.partition("exec ")[2])
        require_command(command)
        # A job's labels are its pod's, so that the service finds it.
        pod = TEMPLATE["job_configuration"]["job_manifest"]["spec"]["template"]
        assert pod["metadata"]["labels"] == "{{ labels }}"

    def test_they_are_as_the_pod_of_a_run_but_for_its_volume(self):
        ours, runs = JOIN["spec"]["template"]["spec"], json.loads(json.dumps(TEMPLATE))
        pod = runs["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
        assert ours["terminationGracePeriodSeconds"] >= patience()
        assert ours["automountServiceAccountToken"] is False
        assert ours["securityContext"].items() <= pod["securityContext"].items()
        (container,), (run,) = ours["containers"], pod["containers"]
        for name in ("securityContext", "volumeMounts", "workingDir"):
            assert container[name] == run[name], name
        assert container["image"] == runs["variables"]["properties"]["image"]["default"]
        assert not [one for one in ours["volumes"] if "persistentVolumeClaim" in one]


class TestRay:
    def test_the_images_ray_is_the_locks(self):
        (line,) = [
            line
            for line in (INFRA / "cluster.lock").read_text().splitlines()
            if "ray==" in line[:6]
        ]
        assert line.split()[0] == f"ray=={RAY_CLUSTER['spec']['rayVersion']}"

    def test_its_pods_are_as_those_of_runs_and_have_the_time_for_a_checkpoint(self):
        pod = TEMPLATE["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
        (run,) = pod["containers"]
        groups = {one["groupName"]: one for one in RAY_CLUSTER["spec"]["workerGroupSpecs"]}
        for group in groups.values():
            ours = group["template"]["spec"]
            assert ours["terminationGracePeriodSeconds"] >= patience()
            assert ours["automountServiceAccountToken"] is False
            assert ours["securityContext"].items() <= pod["securityContext"].items()
            (container,) = ours["containers"]
            for name in ("securityContext", "volumeMounts", "workingDir"):
                assert container[name] == run[name], name
        (with_gpu,) = groups["gpu"]["template"]["spec"]["containers"]
        assert with_gpu["resources"]["limits"]["nvidia.com/gpu"] == "1"
        (without,) = groups["cpu"]["template"]["spec"]["containers"]
        assert "nvidia.com/gpu" not in without["resources"]["limits"]

    def test_only_pods_of_the_namespace_reach_it(self):
        require_valid(POLICY)
        name = RAY_CLUSTER["metadata"]["name"]
        assert POLICY["spec"]["podSelector"]["matchLabels"] == {"ray.io/cluster": name}
        assert POLICY["spec"]["ingress"] == [{"from": [{"podSelector": {}}]}]

    def test_what_its_pods_are_made_of_is_some_of_kubernetes(self):
        spec = RAY_CLUSTER["spec"]
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
            metadata = {"name": "ray", "namespace": "retune"}
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata}
            require_valid(pod | {"spec": group["template"]["spec"]})
