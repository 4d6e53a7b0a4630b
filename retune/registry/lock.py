"""One writer of a model's log at a time, on whatever hosts, by nothing but the MLflow server.

To make a registered model is atomic, and its name is unique: whoever made `sums (lock)` holds the
lock until it is removed. A holder of this host whose process is gone is known at once; of another's
only that nothing changed for LEASE seconds, by the clock of who waits, so that no two clocks need
agree. A holder writes for no longer than HOLD, which is much less. Those of one home folder come one
after the other by a lock of its file system first, which costs the server nothing.
"""

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

from retune.home import lock_file
from retune.processes import is_gone, this_process
from retune.registry.versions import RegistryError
from retune.tracking import client

LEASE = 120.0  # seconds after which a lock of another host that has not changed is broken
HOLD = 40.0  # seconds for which its holder may write
PATIENCE = 300.0  # seconds that a promotion waits for its turn
PAUSE = 0.2  # seconds between two looks
TOKEN, HOLDER, TAKEN = "retune.lock.token", "retune.lock.holder", "retune.lock.taken"


class Held:
    """A lock that is held; whoever writes asks it first."""

    def __init__(self, name: str, token: str) -> None:
        self.name, self.token = name, token
        self._since = time.monotonic()

    def require(self) -> None:
        """Raise RegistryError if it was held so long that others may soon take it."""
        if not self.is_ours:
            raise RegistryError(
                f"the registry took more than {HOLD:.0f} s to write ({self.name}); nothing more was "
                f"changed: look at the MLflow server, then run the command again"
            )

    @property
    def is_ours(self) -> bool:
        return time.monotonic() - self._since < HOLD


@contextmanager
def locked(name: str) -> Iterator[Held]:
    """Hold the lock of the registered model `name`. Raises RegistryError if others hold it too long."""
    from filelock import FileLock, Timeout

    file = lock_file(hashlib.sha256(name.encode()).hexdigest()[:16])
    try:
        with FileLock(file, timeout=PATIENCE), _locked(f"{name} (lock)", PATIENCE) as held:
            yield held
    except Timeout:
        raise RegistryError(
            f"another process of this machine has been changing {name} for {PATIENCE:.0f} s; end it, "
            f"then run the command again"
        ) from None


@contextmanager
def _locked(lock: str, patience: float) -> Iterator[Held]:
    held = _take(lock, patience)
    try:
        yield held
    finally:
        # One that may have been broken meanwhile is perhaps another's by now.
        if held.is_ours or _tags(lock).get(TOKEN) == held.token:
            _remove(lock)


def _take(lock: str, patience: float) -> Held:
    end = time.monotonic() + patience
    seen, since = "", time.monotonic()
    while True:
        # Before it is asked for: what the answer takes counts as held.
        held = Held(lock, uuid4().hex)
        if _made(lock, held.token):
            return held
        tags = _tags(lock)
        token, now = tags.get(TOKEN, ""), time.monotonic()
        if token != seen:
            seen, since = token, now
        if token and (is_gone(tags.get(HOLDER, "  ")) or now - since > LEASE):
            _break(lock, token)
        elif now > end:
            raise RegistryError(
                f"{tags.get(HOLDER, 'another process')} has held {lock!r} since "
                f"{tags.get(TAKEN, 'some time')}; if it is gone, delete the registered model of that "
                f"name in MLflow"
            )
        else:
            time.sleep(PAUSE)


def _break(lock: str, token: str) -> None:
    """Remove the lock of a holder that is gone: one process alone may, and only this holder's."""
    with _locked(f"{lock} {token[:8]}", PATIENCE):
        if _tags(lock).get(TOKEN) == token:
            _remove(lock)


def _made(lock: str, token: str) -> bool:
    from mlflow.exceptions import MlflowException

    taken = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    try:
        client().create_registered_model(
            lock,
            tags={TOKEN: token, HOLDER: this_process(), TAKEN: taken},
            description="Somebody is changing which version serves; this goes away by itself.",
        )
    except MlflowException as error:
        # A request that was sent twice, since its answer got lost, finds what it made itself.
        return error.error_code == "RESOURCE_ALREADY_EXISTS" and _tags(lock).get(TOKEN) == token
    return True


def _tags(lock: str) -> dict[str, str]:
    from mlflow.exceptions import MlflowException

    try:
        return dict(client().get_registered_model(lock).tags)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return {}


def _remove(lock: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client().delete_registered_model(lock)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
