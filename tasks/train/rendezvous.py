"""What hosts that train together tell each other besides tensors: that they are there, and how it ended.

A host that is lost leaves the others in a sum of gradients that never comes: gloo and NCCL wait for half
an hour, or for ever. So each host's first process, which computes nothing, tells the first host every
few seconds that it is there, and all end when one is not heard of any more.
"""

import json
import re
import socket
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING

from retune.child import Event
from retune.errors import RetuneError
from tasks.train.handover import offer
from tasks.train.hosts import Hosts
from tasks.train.job import TrainingRefused, TrainJob

if TYPE_CHECKING:
    from torch.distributed import TCPStore

BEAT = 2  # seconds between two signs of life
LOST = 60  # seconds without one
START = 600  # seconds that hosts may take to come
FAREWELL = 10  # seconds that the first host stays for the others to hear how it ended
OUTCOME = "outcome"  # the key of how it ended
# What a process says whose partner in a sum of gradients is gone: the cause is elsewhere.
CUT_OFF = re.compile(
    r"connection (was )?(closed|reset|refused)|gloo|nccl|timed? ?out|broken pipe", re.I
)


class HostLost(RetuneError):
    """Another host of the training is gone; run again on all of them, it goes on."""


def current_store(hosts: Hosts, seconds: float) -> "TCPStore | None":
    """Return the first host's store; None if it is that of an attempt that has ended, which stays for
    some seconds. Raises OSError, or torch's DistError or RuntimeError, if there is none; `seconds` is how
    long it may take to answer, in which no signal is handled."""
    from torch.distributed import TCPStore

    # The store itself prints pages of C++ for each time that nobody is there yet.
    with socket.create_connection((hosts.address, hosts.port), seconds):
        pass
    store = TCPStore(hosts.address, hosts.port, timeout=timedelta(seconds=seconds))
    store.set_timeout(timedelta(seconds=LOST))
    return None if store.check([OUTCOME]) else store


class Rendezvous:
    """One host's line to the others, over a store at the first one.

    In a thread of its own: a request to a host that is gone may never return. `begin` is called once
    the first host is there. Raises TrainingRefused if that cannot serve at its address.
    """

    def __init__(self, hosts: Hosts, job: TrainJob, begin: Callable[[], None]) -> None:
        self._hosts, self._job, self._may_begin = hosts, job, begin
        self._outcome: Event | None = None
        self._to_publish: Event | None = None
        self._wake, self._closing = threading.Event(), threading.Event()
        self._beat_count = 0
        self._begin = self._heard = time.monotonic()
        self._beats: dict[int, tuple[bytes, float]] = {}  # the last sign of each host, and when
        self._store = self._serve() if hosts.number == 0 else None
        self._thread = threading.Thread(target=self._keep_in_touch, daemon=True)
        self._thread.start()

    def outcome(self) -> Event | None:
        """Return how the training ended for the first host that knows; None while it goes on."""
        if self._outcome is None and self._hosts.number:
            silence = time.monotonic() - self._heard
            if silence > (LOST if self._beats else START):
                return {"lost": self._words(0, bool(self._beats), silence)}
        return self._outcome

    def publish(self, outcome: Event) -> Event:
        """Tell all hosts how it ended, and return what they agree on: the first that was told."""
        self._to_publish = outcome
        self._wake.set()
        self.wait(FAREWELL)
        return self._outcome or outcome

    def wait(self, seconds: float) -> Event | None:
        """Wait for the outcome, so long at most, and return it."""
        end = time.monotonic() + seconds
        while self.outcome() is None and time.monotonic() < end and self._thread.is_alive():
            time.sleep(0.05)
        return self.outcome()

    def blame(self, crash: Exception) -> Event | None:
        """Return the outcome after a process of this host crashed: of another host, if the crash is
        what its loss looks like here. Else the others are told that it was here, and None is returned."""
        last = str(crash).strip().rpartition("\n")[2] or type(crash).__name__
        if CUT_OFF.search(last) and (theirs := self.wait(LOST + 3 * BEAT)):
            return theirs
        ours = {"lost": f"{self._name(self._hosts.number)} failed: {last:.300}; its log says more"}
        agreed = self.publish(ours)
        return None if agreed == ours else agreed

    def close(self) -> None:
        """Leave once all is done, or how it ended is known; the first host goes last, for the others
        are to hear of it."""
        self._closing.set()
        self._wake.set()
        self._thread.join(FAREWELL + BEAT)

    def _serve(self) -> "TCPStore":
        from torch.distributed import DistNetworkError, TCPStore

        hosts = self._hosts
        try:
            return TCPStore(
                *(hosts.address, hosts.port, None, True),
                timeout=timedelta(seconds=LOST),
                wait_for_workers=False,
            )
        except (DistNetworkError, RuntimeError) as error:
            raise TrainingRefused(
                f"MASTER_ADDR={hosts.address}, MASTER_PORT={hosts.port}: the host with NODE_RANK=0 "
                f"cannot be reached there ({str(error).splitlines()[0]:.200}); name its own address and "
                f"a port that is free on it"
            ) from None

    def _keep_in_touch(self) -> None:
        from torch.distributed import DistError

        try:
            store = self._store or self._connected()
            self._arrive(store)
            while not self._closing.is_set():
                self._beat_count += 1
                store.set(f"beat/{self._hosts.number}", str(self._beat_count))
                self._listen(store)
                self._wake.wait(BEAT)
                self._wake.clear()
            self._leave(store)
        except (DistError, RuntimeError, OSError):
            if self._outcome is None:
                seconds = time.monotonic() - self._begin
                self._outcome = {
                    "lost": self._words(0, bool(self._beats), seconds, "its store closed")
                }

    def _arrive(self, store: "TCPStore") -> None:
        self._may_begin()
        number = self._hosts.number
        if store.add(f"arrived/{number}", 1) > 1:
            self._to_publish = {
                "lost": f"{self._name(number)} was started twice: it came back after it was lost, or "
                f"two hosts have its number"
            }

    def _leave(self, store: "TCPStore") -> None:
        if self._hosts.number:
            store.set(f"left/{self._hosts.number}", "1")
        else:
            self._see_off(store)

    def _listen(self, store: "TCPStore") -> None:
        if self._hosts.number == 0:
            self._watch(store)
            offer(store, self._job)
        else:
            self._beats[0] = b"", time.monotonic()
        if self._to_publish:
            store.compare_set(OUTCOME, "", json.dumps(self._to_publish))
            self._to_publish = None
        if self._outcome is None and store.check([OUTCOME]):
            self._outcome = json.loads(store.get(OUTCOME))
        self._heard = time.monotonic()

    def _watch(self, store: "TCPStore") -> None:
        """Look at the first host for the signs of the others."""
        now = time.monotonic()
        for number in range(1, self._hosts.count):
            beat, since = self._beats.get(number, (b"", self._begin))
            newest = store.get(f"beat/{number}") if store.check([f"beat/{number}"]) else b""
            if newest != beat:
                self._beats[number] = newest, now
            elif now - since > (LOST if beat else START) and not store.check([f"left/{number}"]):
                self._to_publish = {"lost": self._words(number, bool(beat), now - since)}

    def _see_off(self, store: "TCPStore") -> None:
        end = time.monotonic() + FAREWELL
        names = [f"left/{number}" for number in self._beats]
        while names and not store.check(names) and time.monotonic() < end:
            time.sleep(0.05)

    def _connected(self) -> "TCPStore":
        """Return the first host's store, once it is there."""
        from torch.distributed import DistError

        while True:
            try:
                if store := current_store(self._hosts, LOST):
                    return store
            except (DistError, RuntimeError, OSError):
                if self._closing.is_set() or time.monotonic() - self._begin > START:
                    raise
            time.sleep(BEAT)

    def _words(self, number: int, was_there: bool, seconds: float, sign: str = "") -> str:
        where = f", MASTER_ADDR={self._hosts.address}," if number == 0 else ""
        if was_there:
            sign = sign or f"nothing was heard of it for {seconds:.0f} s"
            return f"{self._name(number)}{where} was lost: {sign}"
        return f"{self._name(number)}{where} has not come within {seconds:.0f} s"

    def _name(self, number: int) -> str:
        return f"the host with NODE_RANK={number} of {self._hosts.count}"
