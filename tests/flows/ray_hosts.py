"""A Ray cluster of several hosts on this machine, each started as docs/cluster.md says."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any

import psutil

from tests.flows.servers import free_port

# No process waits for work beforehand, and what a stage started is left to end by itself.
LEAN = {
    "RAY_enable_worker_prestart": "false",
    "RAY_prestart_worker_first_driver": "false",
    "RAY_kill_child_processes_on_worker_exit": "false",
    "RAY_worker_niceness": "0",  # Ray's workers give way to all else, of which there is much here
}
PATIENCE = 300  # seconds until a host is there, on a loaded machine


class Cluster:
    """Hosts with home folders in a folder; the first one is the head."""

    def __init__(self, folder: Path, variables: dict[str, str], ip: str = "") -> None:
        import ray

        self.folder, self.variables = folder, variables
        self.ip, self.port, self.clients = ip or ray.util.get_node_ip_address(), free_port(), 0
        self.hosts: dict[str, subprocess.Popen[bytes]] = {}
        self.seconds = 0.0  # of CPU that hosts took which were killed
        # Its sockets' names must be short.
        self.scratch = TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True)

    @property
    def address(self) -> str:
        return f"{self.ip}:{self.port}"

    def start(
        self,
        name: str,
        cpus: int,
        gpus: int = 0,
        inside: Sequence[str] = (),
        ip: str = "",
        resources: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """Start a host, with a home folder of its name, and wait until it is there."""
        home = self.folder / name
        home.mkdir(exist_ok=True)
        where = [f"--address={self.address}"]
        if not self.hosts:
            self.clients = free_port()
            where = [
                "--head", f"--port={self.port}", f"--ray-client-server-port={self.clients}",
                "--include-dashboard=false", f"--temp-dir={self.scratch.name}",
            ]  # fmt: skip
        command = [
            *inside, sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *where,
            f"--num-cpus={cpus}", f"--num-gpus={gpus}", "--disable-usage-stats",
            f"--resources={json.dumps(dict(resources))}",
            "--object-store-memory=80000000", f"--node-ip-address={ip or self.ip}",
        ]  # fmt: skip
        log = home / "ray.log"
        with log.open("wb") as output:
            self.hosts[name] = subprocess.Popen(
                command,
                env=os.environ | LEAN | self.variables | {"RETUNE_HOME": str(home)},
                cwd=self.folder,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        end = time.monotonic() + PATIENCE
        while "--block" not in log.read_text():  # its last words tell of it
            assert self.hosts[name].poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.2)

    def kill(self, name: str) -> None:
        """Kill all of a host at once, as a power cut does."""
        host = self.hosts.pop(name)
        if host.poll() is not None:
            return  # it died by itself; the others are still to be stopped
        process = psutil.Process(host.pid)
        family = [*process.children(recursive=True), process]
        for one in family:
            with suppress(psutil.NoSuchProcess):
                self.seconds += sum(one.cpu_times())  # those of children that ended included
                one.kill()
        psutil.wait_procs(family, timeout=20)

    def stop(self) -> None:
        for name in reversed([*self.hosts]):
            self.kill(name)
        self.scratch.cleanup()

    def told(self) -> dict[str, Any]:
        """Return what the processes of Ray wrote, for a test that failed."""
        return {str(path): path.read_text()[-2000:] for path in self.folder.glob("*/ray.log")}
