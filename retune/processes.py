"""Which process did something, so that another can tell later whether it still runs."""

import os
import socket

import psutil

CLOCK_ERROR = 5  # seconds by which two readings of a process's start may differ


def this_process() -> str:
    """Return what tells this process from any other: host, process id, time of its start."""
    return name_of(os.getpid())


def name_of(pid: int) -> str:
    """Return the same for another process of this host. Raises psutil.NoSuchProcess."""
    return f"{socket.gethostname()} {pid} {psutil.Process(pid).create_time():.0f}"


def is_gone(process: str) -> bool:
    """Tell whether a process of this host has ended; of another host's nothing can be known."""
    return process.rsplit(" ", 2)[0] == socket.gethostname() and running(process) is None


def running(process: str) -> psutil.Process | None:
    """Return the process if it runs on this host, else None."""
    host, pid, created = process.rsplit(" ", 2)
    if host != socket.gethostname():
        return None
    try:
        candidate = psutil.Process(int(pid))
        # Ids are used again; the clock may have been set by a second or two.
        same_start = abs(candidate.create_time() - float(created)) <= CLOCK_ERROR
        return candidate if same_start and candidate.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


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
