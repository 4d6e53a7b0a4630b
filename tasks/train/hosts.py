"""Several hosts that train together: what the environment says of them.

Two kinds of launcher are understood. One of processes (torchrun, Ray Train) sets RANK, WORLD_SIZE,
LOCAL_RANK, MASTER_ADDR and MASTER_PORT in each; one of hosts (srun, a Kubernetes job, ssh) sets NNODES,
NODE_RANK, MASTER_ADDR and MASTER_PORT, and each host starts `training.processes` of its own. What would
have hosts train the same model side by side, each for itself, is refused.
"""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from retune.recipe import Training
from tasks.train.job import TrainingRefused

OF_PROCESSES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
OF_HOSTS = ("NNODES", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT")
LOOPBACK = "127.0.0.1"
LAST_PORT = 65_535


@dataclass(frozen=True)
class Hosts:
    """The hosts of a training and the place of this one among them; `processes` of each train.

    At `address` and `port` they find the first one.
    """

    processes: int
    count: int = 1
    number: int = 0
    address: str = LOOPBACK
    port: int = 0

    @property
    def world_size(self) -> int:
        return self.count * self.processes

    def variables(self, local_rank: int) -> dict[str, str]:
        """Return what torch is told in a process of this host."""
        return {
            "RANK": str(self.number * self.processes + local_rank),
            "WORLD_SIZE": str(self.world_size),
            "LOCAL_RANK": str(local_rank),
            "LOCAL_WORLD_SIZE": str(self.processes),
            "MASTER_ADDR": self.address,
            "MASTER_PORT": str(self.port),
        }

    def told(self) -> dict[str, str]:
        """Return what a child is told that starts this host's processes."""
        values = (self.count, self.number, self.address, self.port)
        return dict(zip(OF_HOSTS, map(str, values), strict=True))


def is_launched(environment: Mapping[str, str] = os.environ) -> bool:
    """Tell whether a launcher has started this process as one of those that train.

    Raises TrainingRefused if it says only half of what the processes need to find each other.
    """
    size = _number("WORLD_SIZE", environment, least=1) or 1
    if size == 1:  # a pod of one may have a part of them
        return all(environment.get(name) for name in OF_PROCESSES)
    _require(
        OF_PROCESSES, f"WORLD_SIZE={size} says that {size} processes train together", environment
    )
    return True


def hosts_of(processes: int, environment: Mapping[str, str] = os.environ) -> Hosts:
    """Return the hosts that train with `processes` each; only this one, if the environment names no more.

    Raises TrainingRefused for what does not fit together.
    """
    count = _number("NNODES", environment, least=1) or 1
    if count == 1:
        return Hosts(processes, port=_free_port())
    _require(OF_HOSTS, f"NNODES={count} says that {count} hosts train together", environment)
    number = _number("NODE_RANK", environment, least=0) or 0
    if number >= count:
        raise TrainingRefused(
            f"NODE_RANK={number} of NNODES={count} hosts: they are numbered from 0 to {count - 1}"
        )
    port = _number("MASTER_PORT", environment, least=1) or 0
    if port > LAST_PORT:
        raise TrainingRefused(f"MASTER_PORT={port}: a port is a number up to {LAST_PORT}")
    return Hosts(processes, count, number, environment["MASTER_ADDR"], port)


def of_run(config: Training, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return what the training of a run is told of other hosts; nothing if this one trains alone.

    A run goes through all stages, so there is one, on the first host. Raises TrainingRefused where
    each host or process would have its own.
    """
    size = _number("WORLD_SIZE", environment, least=1) or 1
    if size > 1:
        raise TrainingRefused(
            f"this run was started as one of WORLD_SIZE={size} processes by a launcher, and each would "
            f"go through all stages and train by itself: start it once, without the launcher; the other "
            f"hosts of a training join it, see docs/gpu.md"
        )
    hosts = hosts_of(config.processes, environment)
    if hosts.count == 1:
        return {}
    if hosts.number:
        raise TrainingRefused(
            f"a run goes through all stages, so it is on the host with NODE_RANK=0 alone; this one has "
            f"NODE_RANK={hosts.number}: start `retune join` here"
        )
    require_backend(config, hosts.count)
    share_of(config, hosts.world_size)
    return hosts.told()


def share_of(config: Training, processes: int) -> int:
    """Return how many examples of a step each of `processes` takes.

    Raises TrainingRefused where they are no equal shares: the step would be another one.
    """
    effective = config.batch_size * config.gradient_accumulation
    if effective % processes:
        sizes = ", ".join(map(str, reversed(divisors(effective))))
        raise TrainingRefused(
            f"{processes} processes cannot share the effective batch of {effective} "
            f"(training.batch_size={config.batch_size} × training.gradient_accumulation="
            f"{config.gradient_accumulation}) equally; these numbers of processes can: {sizes}"
        )
    return effective // processes


def divisors(number: int) -> list[int]:
    """Return the divisors of `number`, the largest first."""
    return [part for part in range(number, 0, -1) if number % part == 0]


def require_backend(config: Training, count: int) -> None:
    """Raise TrainingRefused for a backend that cannot train in `count` places at once."""
    if count > 1 and config.backend != "trl":
        raise TrainingRefused(
            f"training.backend={config.backend} trains in one process, and the environment says that "
            f"there are {count} hosts or processes (NNODES or WORLD_SIZE): each would train by itself; "
            f"set training.backend=trl"
        )


def require_alone(config: Training) -> None:
    """Raise TrainingRefused if the environment says that others train with this process, which its
    backend cannot."""
    if is_launched():
        require_backend(config, _number("WORLD_SIZE", os.environ, least=1) or 1)
    require_backend(config, hosts_of(config.processes).count)


def _number(name: str, environment: Mapping[str, str], least: int) -> int | None:
    text = environment.get(name)
    if not text:
        return None
    if not (text.isascii() and text.isdigit()) or int(text) < least:
        raise TrainingRefused(f"{name}={text}: a whole number from {least} on is needed")
    return int(text)


def _require(names: tuple[str, ...], because: str, environment: Mapping[str, str]) -> None:
    missing = [name for name in names if not environment.get(name)]
    if missing:
        raise TrainingRefused(
            f"{because}, but {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set; all of "
            f"{', '.join(names)} are needed, MASTER_ADDR and MASTER_PORT the same everywhere: the first "
            f"host's address and a port that is free there"
        )


def _free_port() -> int:
    with socket.socket() as server:
        server.bind((LOOPBACK, 0))
        return int(server.getsockname()[1])
