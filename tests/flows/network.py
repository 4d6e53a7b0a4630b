"""Hosts as network namespaces on one wire, each blind to the home folders of the others.

This machine itself is on the wire, too, as `servers`: what listens on its loopback can be relayed there.
"""

import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

NET = "10.78.0."
SERVERS = "servers"  # this machine's name, by which the hosts know it
SPACES = Path("/etc/netns")  # what lies there for a namespace its processes find in /etc


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def spaces_are_allowed() -> bool:
    """Tell whether namespaces can be made here, which root alone may."""
    probe = ["ip", "netns", "exec", "retune-probe", "true"]
    if shutil.which("ip") is None or os.geteuid():
        return False
    try:
        ip("netns", "add", "retune-probe")
        return subprocess.run(probe, capture_output=True).returncode == 0
    except subprocess.CalledProcessError:
        return False
    finally:
        subprocess.run(["ip", "netns", "del", "retune-probe"], capture_output=True)


def settle(space: str, address: str, names: Sequence[str]) -> None:
    """Let a namespace, whose end of a wire is eth0, have an address, and know hosts by name: lines of
    `/etc/hosts`. Whoever asks would wait for a name server otherwise."""
    ip("-n", space, "addr", "add", f"{address}/24", "dev", "eth0")
    ip("-n", space, "link", "set", "eth0", "up")
    ip("-n", space, "link", "set", "lo", "up")
    (SPACES / space).mkdir(parents=True)
    (SPACES / space / "hosts").write_text("\n".join(["127.0.0.1 localhost", *names, ""]))
    (SPACES / space / "resolv.conf").write_text("nameserver 127.0.0.1\n")


def remove_space(space: str) -> None:
    """Remove a namespace with what its processes find in /etc, if it is there."""
    subprocess.run(["ip", "netns", "del", space], capture_output=True)
    shutil.rmtree(SPACES / space, ignore_errors=True)


class Wire:
    """A bridge with a namespace for each of some hosts; `folder` has the home folders of all."""

    def __init__(self, hosts: Sequence[str], folder: Path) -> None:
        tag = f"{os.getpid() % 10**6}"
        self.bridge, self.own_address = f"rw{tag}", f"{NET}254"
        self._folder, self._hosts = folder, list(hosts)
        self._spaces = {host: f"rt{tag}-{host}" for host in hosts}
        ip("link", "add", self.bridge, "type", "bridge")
        ip("addr", "add", f"{self.own_address}/24", "dev", self.bridge)
        ip("link", "set", self.bridge, "up")
        for host in hosts:
            self._join(host)

    def address(self, host: str) -> str:
        return f"{NET}{self._hosts.index(host) + 1}"

    def _join(self, host: str) -> None:
        space, port = self._spaces[host], f"{self.bridge}{self._hosts.index(host)}"
        ip("netns", "add", space)
        ip("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", space)
        ip("link", "set", port, "master", self.bridge, "up")
        names = [f"{self.address(one)} {one}" for one in self._hosts]
        settle(space, self.address(host), [f"{self.own_address} {SERVERS}", *names])

    def inside(self, host: str) -> list[str]:
        """Return what a command on a host begins with: it sees its own home, of the others nothing."""
        others = [self._folder / one for one in self._hosts if one != host]
        hidden = "".join(f"mount -t tmpfs none '{one}' && " for one in others)
        named = f"hostname {host}"
        shell = f'{hidden}exec unshare --uts sh -c \'{named}; exec "$@"\' - "$@"'
        return ["ip", "netns", "exec", self._spaces[host], "sh", "-c", shell, "-"]

    def kill(self, host: str) -> None:
        """Kill all processes of a host at once, also those that lost their parents."""
        pids = ["ip", "netns", "pids", self._spaces[host]]
        while found := subprocess.run(pids, capture_output=True, text=True).stdout.split():
            for pid in found:
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)

    def close(self) -> None:
        for host, space in self._spaces.items():
            self.kill(host)
            remove_space(space)
        subprocess.run(["ip", "link", "del", self.bridge], capture_output=True)


@contextmanager
def relayed(address: str, port: int) -> Iterator[None]:
    """Let hosts reach at `address` what listens at `port` of the loopback, for the length of a block."""
    with socket.create_server((address, port)) as server:
        threading.Thread(target=_accept, args=(server, port), daemon=True).start()
        yield


def _accept(server: socket.socket, port: int) -> None:
    with suppress(OSError):  # it is closed
        while True:
            near, _ = server.accept()
            try:
                far = socket.create_connection(("127.0.0.1", port))
            except OSError:
                near.close()
                continue
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=_copy, args=(one, other), daemon=True).start()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while content := source.recv(1 << 16):
            target.sendall(content)
        target.shutdown(socket.SHUT_WR)
