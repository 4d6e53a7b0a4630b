"""Where the store is, and how it is asked: each answer after some attempts, each failure a sentence.

$RETUNE_STORE names it: `s3://bucket/prefix`, `gs://`, `az://container/prefix`, or `file://` on a disk
that all machines see. Its credentials are those that the clouds' own programs read (AWS_…, GOOGLE_…,
AZURE_…). They stay in the process that asks.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import unquote, urlsplit

from retune.disk_space import is_disk_full
from retune.errors import RetuneError
from retune.escaping import terminal
from retune.manifest import FileEntry

if TYPE_CHECKING:
    from obstore.store import ObjectStore

ADDRESS = "RETUNE_STORE"
SCHEMES = ("s3", "gs", "az", "file")
ATTEMPTS = 3  # at the same question, besides the library's own
LONGEST_WAIT = 20  # seconds between two
PIECE = 16 * 2**20  # bytes that are sent at once
MOST_PIECES = 9_000  # of a file; S3 takes 10,000

_NO_BUCKET = "there is no such bucket or container: make it, or correct the address"

Answer = TypeVar("Answer")


class StoreError(RetuneError):
    """The store is not set up, or refuses; the message says what to change."""


class StoreUnreachable(StoreError):
    """The store did not answer; what was made is kept on this machine."""


class Stored(NamedTuple):
    """A file in the store: its name there, its bytes, and when it was written (seconds since 1970)."""

    name: str
    bytes: int
    written: float


def store() -> "Store | None":
    """Return the store, None without one. A run that must make everything anew (RETUNE_WORK) has none.

    Raises StoreError for an address that is none, or without the package that reaches it.
    """
    address = os.environ.get(ADDRESS, "").strip()
    return _opened(address) if address and not os.environ.get("RETUNE_WORK") else None


@cache
def _opened(address: str) -> "Store":
    return Store(address)


# What a person does who lacks a package of the extra.
INSTALL = (
    "pip install 'retune[cluster]', in a checkout .venv/bin/pip install --no-deps "
    "--require-hashes -r infra/cluster.lock"
)


class Store:
    """A store of files by name. Raises StoreError where it refuses, StoreUnreachable where it does
    not answer."""

    def __init__(self, address: str) -> None:
        parts = _parts(address)
        self.address = address.rstrip("/")
        try:
            from obstore.store import LocalStore, from_url
        except ImportError:
            raise StoreError(
                f"{ADDRESS} is set, and the package that reaches it is not installed: {INSTALL}"
            ) from None
        self._files: ObjectStore
        if parts.scheme == "file":
            folder = Path(unquote(parts.path))
            self.address = folder.as_uri()
            self._files = self._ask(lambda: LocalStore(folder, mkdir=True))
        else:
            self._files = self._ask(lambda: from_url(self.address, retry_config=_retries()))

    def uri(self, name: str) -> str:
        """Return the address of a file or folder in the store."""
        return f"{self.address}/{name}"

    def read(self, name: str) -> bytes | None:
        """Return what a small file holds, None if it is not there."""
        import obstore

        try:
            return self._ask(lambda: obstore.get(self._files, name).bytes().to_bytes())
        except FileNotFoundError:
            return None

    def piece(self, name: str, start: int, end: int) -> bytes:
        """Return bytes `start` to `end` (exclusive) of a file. Raises FileNotFoundError."""
        import obstore

        return self._ask(
            lambda: obstore.get_range(self._files, name, start=start, end=end).to_bytes()
        )

    def has(self, name: str) -> bool:
        """Tell whether a file is there."""
        import obstore

        try:
            self._ask(lambda: obstore.head(self._files, name))
        except FileNotFoundError:
            return False
        return True

    def write(self, name: str, content: bytes) -> None:
        """Write a small file, over one that is there."""
        import obstore

        self._sent(lambda: obstore.put(self._files, name, content))

    def create(self, name: str, content: bytes) -> bool:
        """Write a small file that nobody has written yet; returns False if somebody has.

        It is the lock of several machines: one of them is the first.
        """
        import obstore
        from obstore.exceptions import AlreadyExistsError

        try:
            self._sent(lambda: obstore.put(self._files, name, content, mode="create"))
        except AlreadyExistsError:
            # Also where the answer to the first attempt was lost.
            return self.read(name) == content
        return True

    def send(
        self, name: str, path: Path, expected: FileEntry, going_on: Callable[[], bool]
    ) -> None:
        """Send a file while `going_on()`. Raises StoreError if it is not what is expected of it."""
        import obstore

        size = max(PIECE, -(-expected.bytes // MOST_PIECES))
        failures: list[Exception] = []  # of ours, which the library would wrap

        def pieces() -> Iterator[bytes]:
            try:
                yield from _checked(path, size, expected, going_on)
            except Exception as error:
                failures.append(error)
                raise

        def put() -> None:
            # A small one at once, also an empty one, of which there would be no piece.
            content = b"".join(pieces()) if expected.bytes <= PIECE else pieces()
            try:
                obstore.put(self._files, name, content, chunk_size=size, max_concurrency=4)
            except Exception:
                if failures:
                    raise failures[0] from None
                raise

        self._sent(put)

    def list(self, prefix: str) -> Iterator[Stored]:
        """Yield all files below a folder, or of the whole store for ""."""
        import obstore

        def listed() -> list[Stored]:
            return [
                Stored(one["path"], one["size"], one["last_modified"].timestamp())
                for page in obstore.list(self._files, f"{prefix}/" if prefix else None)
                for one in page
            ]

        yield from self._ask(listed)

    def remove(self, names: Sequence[str]) -> None:
        """Remove files; those that are not there are gone already."""
        import obstore

        for name in names:
            try:
                self._ask(partial(obstore.delete, self._files, name))
            except FileNotFoundError:
                continue

    def _sent(self, call: Callable[[], Any]) -> None:
        try:
            self._ask(call)
        except FileNotFoundError:
            raise StoreError(f"{ADDRESS}: {self.address}: {_NO_BUCKET}") from None

    def _ask(self, call: Callable[[], Answer]) -> Answer:
        from tenacity import Retrying, retry_if_exception, stop_after_attempt
        from tenacity import wait_exponential_jitter as jitter

        attempts = Retrying(
            stop=stop_after_attempt(ATTEMPTS),
            wait=jitter(multiplier=min(1, LONGEST_WAIT), max=LONGEST_WAIT),
            retry=retry_if_exception(_may_pass),
            reraise=True,
        )
        try:
            return attempts(call)
        except Exception as error:
            raise self._explained(error) from None

    def _explained(self, error: Exception) -> Exception:
        from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

        if isinstance(error, PermissionDeniedError | UnauthenticatedError | PermissionError):
            return StoreError(
                f"{ADDRESS}: {self.address} refuses this machine ({_first_line(error)}): check its "
                f"credentials, and what they allow"
            )
        if is_disk_full(error):
            return StoreError(f"{ADDRESS}: the disk of {self.address} is full: free some")
        if _lacks_bucket(error):
            return StoreError(f"{ADDRESS}: {self.address}: {_NO_BUCKET}")
        if _may_pass(error):
            return StoreUnreachable(
                f"{ADDRESS}: {self.address} does not answer ({_first_line(error)}): start it, or correct "
                f"the address, and run again. Nothing that was made is lost: it is reused"
            )
        kept = ("AlreadyExistsError", "NotFoundError")
        if isinstance(error, BaseError) and type(error).__name__ not in kept:
            return StoreError(f"{ADDRESS}: {self.address}: {_first_line(error)}")
        return error


def _checked(
    path: Path, size: int, expected: FileEntry, going_on: Callable[[], bool]
) -> Iterator[bytes]:
    """Yield a file in pieces of `size` bytes. Raises StoreError if it is not what is expected,
    InterruptedError once it is not to go on."""
    digest = hashlib.sha256()
    try:
        opened = path.open("rb")
    except FileNotFoundError:
        raise StoreError(
            f"{path} is not there any more, and was to be sent; remove the folder that it lies in"
        ) from None
    with opened as file:
        while piece := file.read(size):
            if not going_on():
                raise InterruptedError(f"{path} is not sent to its end")
            digest.update(piece)
            yield piece
    if digest.hexdigest() != expected.sha256:
        raise StoreError(f"{path} was changed after it was made; remove the folder that it lies in")


def _parts(address: str) -> Any:
    """Return the parts of an address. Raises StoreError, without showing what may be a password."""
    try:
        parts = urlsplit(address)
    except ValueError:  # brackets that do not close
        parts = urlsplit("")
    named = parts.netloc if parts.scheme != "file" else Path(parts.path).is_absolute()
    if parts.scheme not in SCHEMES or not named or (parts.scheme == "file" and parts.netloc):
        raise StoreError(
            f"{ADDRESS} is no address of a store: write s3://bucket/prefix, gs://bucket/prefix, "
            f"az://container/prefix or file:///folder/that/all/machines/see"
        )
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise StoreError(
            f"{ADDRESS} holds more than a bucket and a prefix; credentials are read from the variables "
            f"of the cloud's own programs (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL and the like)"
        )
    return parts


def _retries() -> Any:
    """Return how often the library itself asks again: each part of a file by itself."""
    from datetime import timedelta

    seconds = float(LONGEST_WAIT)
    return {
        "max_retries": 4 if LONGEST_WAIT else 0,
        "retry_timeout": timedelta(seconds=3 * seconds),
        "backoff": {"max_backoff": timedelta(seconds=max(0.1, seconds / 4))},
    }


def _may_pass(error: BaseException) -> bool:
    """Tell whether to ask again can help."""
    passing = {"GenericError", "JoinError"}
    if _lacks_bucket(error):
        return False
    return type(error).__name__ in passing or isinstance(error, ConnectionError | TimeoutError)


def _lacks_bucket(error: BaseException) -> bool:
    return re.search("NoSuchBucket|ContainerNotFound|bucket does not exist", str(error)) is not None


def _first_line(error: Exception) -> str:
    """Return what a library says of an error, without what may be signatures in addresses."""
    line = terminal(str(error)).strip().partition("\n")[0]
    return re.sub(r"\?\S*", "", line)[:240].rstrip(" :")
