"""PostgreSQL of this machine as Prefect's database, which may be killed and started again."""

import asyncio
import getpass
import os
import pwd
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import psutil

from tests.flows.servers import free_port

PROGRAM = shutil.which("postgres")


def as_its_user(*paths: Path) -> list[str]:
    """Return what a command of PostgreSQL's begins with, which refuses to run as root, and let its user
    have the paths."""
    if getpass.getuser() != "root":
        return []
    account = pwd.getpwnam("postgres")
    for path in paths:
        os.chown(path, account.pw_uid, account.pw_gid)
    return ["runuser", "-u", "postgres", "--"]


class Postgres:
    """A server with one database, on the loopback, that asks nobody for a password."""

    def __init__(self) -> None:
        # Not in pytest's folder, which another user may not enter.
        self.folder, self.port = Path(mkdtemp(prefix="retune-postgres-")), free_port()
        self.data, self._as_user = self.folder / "data", as_its_user(self.folder)
        self._do("initdb", "--auth", "trust", "--username", "postgres", "--no-sync")
        self.start()

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    @property
    def variables(self) -> dict[str, str]:
        """What makes Prefect's server use it."""
        url = self.url.replace("postgresql:", "postgresql+asyncpg:")
        return {"PREFECT_SERVER_DATABASE_CONNECTION_URL": url}

    def start(self) -> None:
        options = f"-p {self.port} -h 127.0.0.1 -k {self.folder}"
        log = self.folder / "log"
        self._do("pg_ctl", "--wait", "--log", str(log), "--options", options, "start")

    def kill(self) -> None:
        """As a power cut ends it, and start it again."""
        server = psutil.Process(int((self.data / "postmaster.pid").read_text().split()[0]))
        victims = [server, *server.children(recursive=True)]
        for victim in victims:
            with suppress(psutil.NoSuchProcess):
                victim.send_signal(signal.SIGKILL)
        psutil.wait_procs(victims, timeout=30)  # while one is there, none may start
        self.start()

    def end(self) -> None:
        self._do("pg_ctl", "--wait", "--mode", "immediate", "stop")
        shutil.rmtree(self.folder)

    def _do(self, program: str, *arguments: str) -> None:
        path = Path(str(PROGRAM)).resolve().with_name(program)
        command = [*self._as_user, str(path), "--pgdata", str(self.data), *arguments]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, cwd=self.folder, check=False)
        assert done.returncode == 0, command


def select(url: str, query: str, *values: Any) -> list[tuple[Any, ...]]:
    """Return the rows of a query in SQLite's words: a `?` for each value."""
    import asyncpg

    for number in range(1, len(values) + 1):
        query = query.replace("?", f"${number}", 1)

    async def rows() -> list[tuple[Any, ...]]:
        connection = await asyncpg.connect(url)
        try:
            return [tuple(row) for row in await connection.fetch(query, *values)]
        finally:
            await connection.close()

    return asyncio.run(rows())
