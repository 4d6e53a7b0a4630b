"""What goes to a server while something else is at work: in order, once, and without being waited for."""

import threading
from collections.abc import Callable
from contextvars import copy_context
from typing import Generic, TypeVar

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0  # seconds between two attempts

Item = TypeVar("Item")


class Delivery(Generic[Item]):
    """A thread that hands on what is put into it, so that who puts never waits.

    `take` gets all that waits, in order. Where it raises, the same and what came since is tried again
    later; `failed` hears of the first failure in a row.
    """

    def __init__(
        self,
        take: Callable[[list[Item]], None],
        failed: Callable[[Exception], None] = lambda error: None,
    ) -> None:
        self._take, self._failed = take, failed
        self._waiting: list[Item] = []
        self._changed = threading.Condition()
        self._ending = threading.Event()
        # The run that this belongs to is known by the context.
        self._thread = threading.Thread(target=copy_context().run, args=(self._work,), daemon=True)
        self._thread.start()

    def put(self, item: Item) -> None:
        with self._changed:
            self._waiting.append(item)
            self._changed.notify()

    def finish(self, patience: float) -> bool:
        """Hand on the rest, trying once more, for `patience` seconds; tell whether nothing is left."""
        self._ending.set()
        with self._changed:
            self._changed.notify()
        self._thread.join(patience)
        return not self._thread.is_alive() and not self._waiting

    def _work(self) -> None:
        pause = 0.0
        while batch := self._next():
            last = self._ending.is_set()
            try:
                self._take(batch)
            except Exception as error:
                if not pause:
                    self._failed(error)
                if last:
                    return
                pause = min(2 * pause or FIRST_PAUSE, LONGEST_PAUSE)
                self._ending.wait(pause)
            else:
                pause = 0.0
                with self._changed:
                    del self._waiting[: len(batch)]

    def _next(self) -> list[Item]:
        """Wait for something to hand on; nothing means that the end has come."""
        with self._changed:
            while not self._waiting and not self._ending.is_set():
                self._changed.wait()
            return list(self._waiting)
