"""Which process did something, so that another can tell later whether it still runs."""

import os
import socket
from pathlib import Path

import psutil

CLOCK_ERROR = 5  # seconds by which two readings of a process's start may differ
BOOT = Path("/proc/sys/kernel/random/boot_id")  # of Linux: other digits each time it starts
TICKS = 19  # in /proc/<pid>/stat, after the name: when it began, in ticks since the machine did


def this_process() -> str:
    """Return what tells this process from any other: host, process id, its start."""
    return name_of(os.getpid())


def name_of(pid: int) -> str:
    """Return the same for another process of this host. Raises psutil.NoSuchProcess."""
    return f"{socket.gethostname()} {pid} {_start(psutil.Process(pid))}"


def is_gone(process: str) -> bool:
    """Tell whether a process of this host has ended; of another host's nothing can be known."""
    return process.rsplit(" ", 2)[0] == socket.gethostname() and running(process) is None


def running(process: str) -> psutil.Process | None:
    """Return the process if it runs on this host, else None."""
    host, pid, start = process.rsplit(" ", 2)
    if host != socket.gethostname():
        return None
    try:
        candidate = psutil.Process(int(pid))
        is_it = _began_at(candidate, start)  # ids are used again
        return candidate if is_it and candidate.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def _start(process: psutil.Process) -> str:
    """Return when a process began: its machine's start and ticks since then, `5f0e1c22:8123`, since its
    time by the clock is another one once somebody has set that; the time where that is all there is."""
    try:
        ticks = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[TICKS]
        return f"{BOOT.read_text()[:8]}:{ticks}"
    except (OSError, IndexError):  # no Linux
        return f"{process.create_time():.0f}"


def _began_at(process: psutil.Process, start: str) -> bool:
    if ":" in start:
        return start == _start(process)
    # Of before there were ticks: the clock may have been set by a second or two.
    return abs(process.create_time() - float(start)) <= CLOCK_ERROR


def listens(process: psutil.Process, port: int) -> bool:
    """Tell whether `process`, or one that it started, is who answers on this port of 127.0.0.1."""
    try:
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return False
    return any(_has_port(member, port) for member in family)


def _has_port(process: psutil.Process, port: int) -> bool:
    try:
        return any(
            socket.status == psutil.CONN_LISTEN and socket.laddr == ("127.0.0.1", port)
            for socket in process.net_connections("tcp4")
        )
    except psutil.Error:  # it has ended meanwhile, or is somebody else's
        return False
