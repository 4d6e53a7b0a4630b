"""Who may drive the servers of a home folder: its sign-in, and who else uses this machine.

The servers listen on loopback, which any user of the machine and many web pages can reach, and
whoever can talk to Prefect's runs commands as the user. So they ask for a sign-in, a name and a
password that are made once per home folder and stay in a file that only its user can read.
"""

import base64
import http.client
import json
import os
import pwd
import secrets
import stat
import urllib.error
import urllib.parse
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import psutil

from retune.home import home, is_home, make_home
from retune.processes import listens, running

NAME = "retune"
LOOPBACK = ("127.0.0.1", "localhost")
# Ids below are the system's own, and so are these above: nobody (65534), and those that systemd
# hands out for services and containers.
PEOPLE = range(1000, 60000)
NO_LOGIN = ("nologin", "false", "sync", "halt", "shutdown")


def sign_in_file() -> Path:
    """Return the file with the name and password of this home folder's servers."""
    return home() / "sign-in"


def sign_in() -> str:
    """Return `name:password`, made when it is first asked for.

    A file that others could read is replaced. Raises PermissionError for one of another user.
    """
    from tenacity import Retrying, retry_if_not_result, stop_after_attempt, wait_fixed

    path = sign_in_file()
    make_home()

    def read_or_make() -> str | None:
        line = _read(path)
        if not line:
            _make(path)
        return line

    retrying = Retrying(
        retry=retry_if_not_result(bool),
        stop=stop_after_attempt(20),
        wait=wait_fixed(0.05),  # for whoever was faster to write what it made
        retry_error_callback=lambda _: _unreadable(path),
    )
    return retrying(read_or_make) or _unreadable(path)


def _read(path: Path) -> str | None:
    """Return what the file says; None if there is none that only its user can read."""
    try:
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), encoding="utf-8")
    except FileNotFoundError:
        return None
    except OSError:
        _unreadable(path)
    with file:
        facts = os.fstat(file.fileno())
        if facts.st_uid != os.getuid() or not stat.S_ISREG(facts.st_mode):
            _unreadable(path)
        if stat.S_IMODE(facts.st_mode) & 0o077:
            path.unlink(missing_ok=True)  # known to others, perhaps
            return None
        return file.read().strip() or None


def _make(path: Path) -> None:
    """Write a new one; whoever was faster wins."""
    with suppress(FileExistsError):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(file, "w", encoding="utf-8") as writing:
            writing.write(f"{NAME}:{secrets.token_urlsafe(24)}\n")


def _unreadable(path: Path) -> NoReturn:
    raise PermissionError(
        f"{path} holds the sign-in of this home's servers and must be a file that you own and only "
        f"you can read: remove it (a new one is made), or set RETUNE_HOME to a folder on a disk "
        f"that keeps permissions"
    )


def ui_file() -> Path:
    """Return the file in which a running `retune ui` leaves who it is and where its server is."""
    return home() / "ui.json"


def ui_server() -> str | None:
    """Return the API address of the running `retune ui` of this home folder, None if there is none.

    What the file says is believed only if the process that it names runs and listens there: the
    sign-in is not for a stranger who took the port since.
    """
    process, port = ui_record("prefect_port")
    if process and listens(process, port):
        return f"http://127.0.0.1:{port}/api"
    return None


def ui_record(port: str) -> "tuple[psutil.Process | None, int]":
    """Return the process of `retune ui` that this home's file names, None if it does not run, and its
    `port` of that name."""
    try:
        record = json.loads(ui_file().read_text())
        return running(record["process"]) if is_of_this_home(record) else None, int(record[port])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None, 0  # none runs, or one of an older version


def is_of_this_home(record: dict[str, Any]) -> bool:
    """Tell whether what a `retune ui` noted is of this home: one that was copied has the note of the home
    that it came from."""
    return is_home(Path(record.get("home", home())))


def status(address: str, sign_in: str | None = None, patience: float = 10) -> int:
    """Return the HTTP status of the answer, 0 if there is none within `patience` seconds."""
    request = urllib.request.Request(address)
    is_here = urllib.parse.urlsplit(address).hostname in LOOPBACK
    # What is for a server on loopback is not for the user's proxy.
    opener = urllib.request.build_opener(*([urllib.request.ProxyHandler({})] if is_here else []))
    if sign_in:
        token = base64.b64encode(sign_in.encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {token}")
    try:
        with opener.open(request, timeout=patience) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, ValueError, http.client.HTTPException):  # no server of HTTP, or no address
        return 0


def no_proxy() -> dict[str, str]:
    """Return variables by which no proxy gets what is for the servers on loopback."""
    hosts = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    if hosts.strip() != "*":
        names = [name.strip() for name in hosts.split(",") if name.strip()]
        hosts = ",".join([*names, *(name for name in LOOPBACK if name not in names)])
    return {"no_proxy": hosts, "NO_PROXY": hosts}


def other_users() -> list[str]:
    """Return the people besides this user who can or do use this machine, by name, sorted.

    Those are: accounts that can log in, owners of folders next to this user's home folder, and
    owners of what runs now. The last two also see accounts of a directory (LDAP), which cannot be
    listed; one of them that was never here is not seen.
    """
    ids = {
        account.pw_uid for account in pwd.getpwall() if Path(account.pw_shell).name not in NO_LOGIN
    }
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            ids.add(process.uids().real)
    for folder in _homes():
        with suppress(OSError):
            ids.add(folder.stat().st_uid)
    return sorted(_name(uid) for uid in ids if uid in PEOPLE and uid != os.getuid())


def _homes() -> list[Path]:
    try:
        return list(Path("/home").iterdir())
    except OSError:
        return []


def _name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)
