"""The cluster of RETUNE_CLUSTER: how it is reached, and what is refused before a run works for it.

ray://HOST:10001   from a machine that is none of the cluster's, through its head
HOST:6379          from a machine of the cluster, by the address of its head
auto               the same, by what `ray start` left on this machine
"""

import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from urllib.parse import urlsplit

from flows.needs import Totals
from retune.access import LOOPBACK
from retune.errors import RetuneError
from retune.placement import CLUSTER
from retune.preflight import MachineCheck
from retune.store.place import ADDRESS, INSTALL, store
from retune.tracking import tracking_uri

NAMESPACE = "retune"
# Nothing is reported to Ray's makers; lines of stages come whole, without colours.
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0", "RAY_COLOR_PREFIX": "0"}
PATIENCE = 30.0  # seconds
KIND = "accelerator_type:"  # of a GPU, in the names of a machine's resources
HOOK = "retune_app.on_host"  # what each process of Ray's does first


class ClusterError(RetuneError):
    """The cluster is not set up, or cannot be reached; the message says what to change."""


def address() -> str | None:
    """Return $RETUNE_CLUSTER; None without one, and for a run that must make everything anew, which
    has no store. Raises ClusterError for what is no address."""
    text = os.environ.get(CLUSTER, "").strip()
    if not text or os.environ.get("RETUNE_WORK"):
        return None
    if not re.fullmatch(r"auto|(ray://)?[\w.-]+:\d{1,5}|(ray://)?\[[0-9a-fA-F:]+\]:\d{1,5}", text):
        raise ClusterError(
            f"{CLUSTER} is no address of a cluster: write ray://HOST:10001, HOST:6379 or auto"
        )
    return text


def on_cluster() -> bool:
    """Tell whether the stages of a run are for the machines of a cluster. Raises ClusterError."""
    return address() is not None


def require_cluster() -> None:
    """Raise ClusterError if there is to be a cluster and what it takes is not there: before a run has
    worked for it."""
    if address() is None:
        return
    if store() is None:
        raise ClusterError(
            f"{CLUSTER} is set and {ADDRESS} is not: the machines hand each other their outputs through "
            f"a store; set {ADDRESS}, see docs/cluster.md"
        )
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        raise ClusterError(
            f"{CLUSTER} is set and MLFLOW_TRACKING_URI is not: all machines log to one MLflow; set it, "
            f"see docs/cluster.md"
        )
    if (hosts := os.environ.get("NNODES", "1")) != "1":
        raise ClusterError(
            f"{CLUSTER} and NNODES={hosts} are set: a training on several hosts is started without a "
            f"cluster (docs/gpu.md, Several hosts); unset one of them"
        )
    if find_spec("ray") is None or find_spec("prefect_ray") is None:
        raise ClusterError(f"{CLUSTER} is set, and Ray is not installed: {INSTALL}")


@contextmanager
def connected(where: str, patience: float = PATIENCE) -> Iterator[None]:
    """Be connected with the cluster for the length of a block. Raises ClusterError, also if nothing
    answers at its address for `patience` seconds, in which a head may come back.

    Ray takes SIGTERM for itself, by which a run is told to end: it is given back.
    """
    _await_answer(where, patience)
    for name, value in QUIET.items():  # some are read when it is imported
        os.environ.setdefault(name, value)
    import ray

    handlers = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)}
    try:
        ray.init(
            address=where,
            namespace=NAMESPACE,
            log_to_driver=True,  # what stages tell is shown where the run was started
            logging_level="warning",
            runtime_env={"worker_process_setup_hook": HOOK},
        )
    except Exception as error:  # of half a dozen kinds, by what is missing
        raise _unreachable(where, error) from None
    finally:
        for number, handler in handlers.items():
            if handler is not None:  # else it is not Python's
                signal.signal(number, handler)
    try:
        _require_common_servers()
        yield
    finally:
        ray.shutdown()


def _await_answer(where: str, patience: float) -> None:
    """Raise ClusterError if no program listens there in time: Ray itself would try for minutes."""
    if where == "auto":
        return
    host, _, port = where.removeprefix("ray://").rpartition(":")
    end = time.monotonic() + patience
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
        except (OSError, UnicodeError) as error:
            if time.monotonic() > end:
                raise _unreachable(where, error) from None
            time.sleep(1)
        else:
            return


def machines() -> list[Totals]:
    """Return what each machine of the cluster has that is there now."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def check_cluster() -> MachineCheck:
    """Connect with the cluster, if stages are for one, and tell what its machines have."""
    try:
        if (where := address()) is None:
            return MachineCheck(
                "cluster", None, "none (RETUNE_CLUSTER): stages run on this machine"
            )
        require_cluster()
        with connected(where, patience=0):
            return MachineCheck("cluster", True, f"{where}: {described(machines())}")
    except RetuneError as error:
        problem, _, fix = str(error).rpartition(": ")
        return MachineCheck("cluster", False, problem, fix)


def described(hosts: list[Totals]) -> str:
    """Return in words how many machines there are, and what they have together."""
    cpus, gpus = (int(sum(host.get(name, 0) for host in hosts)) for name in ("CPU", "GPU"))
    kinds = sorted(
        {name.partition(":")[2] for host in hosts for name in host if name.startswith(KIND)}
    )
    words = [
        f"{len(hosts)} machine{'s' * (len(hosts) != 1)}",
        f"{cpus} CPUs",
        f"{gpus} GPU{'s' * (gpus != 1)}" + (f" ({', '.join(kinds)})" if kinds else ""),
    ]
    return ", ".join(words)


def _require_common_servers() -> None:
    """Raise ClusterError for a server on the loopback, if the cluster is more than one machine."""
    import ray

    from flows.local import api_address

    addresses = {node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    if len(addresses) < 2:
        return
    servers = {"PREFECT_API_URL": api_address() or "", "MLFLOW_TRACKING_URI": tracking_uri()}
    for name, url in servers.items():
        if urlsplit(url).hostname in (*LOOPBACK, "::1"):
            raise ClusterError(
                f"{name} is an address of this machine alone, and the cluster has {len(addresses)} "
                f"machines: set it to one by which all of them reach the server, see docs/deploy.md"
            )


def _unreachable(where: str, error: Exception) -> ClusterError:
    said = re.sub(r"\s+", " ", str(error)).strip()[:240]
    advice = "start it, or correct the address"
    if not where.startswith("ray://"):
        advice += "; from a machine that is none of the cluster's, write ray://HOST:10001"
    return ClusterError(f"{CLUSTER}={where}: the cluster cannot be reached ({said}): {advice}")
