"""Outputs on their way to the store and from it: whole at either end, or not there.

An output is `<stage>/<fingerprint>/output.json` in the store, which is created last and only if it is
not there: that is the commit, and the only lock. Its files lie beside it in a folder named by the
manifest, so that two machines that make the same output never write the same file, unless it is the
same. A copy is made in `<fingerprint>.pulling`, piece by piece, and renamed once every hash is right;
after a kill it goes on with what is there.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from threading import Event, Lock
from typing import Any, NamedTuple

from retune.disk_space import is_disk_full, no_space_left
from retune.files import digest, sha256
from retune.home import remove
from retune.manifest import RECORD, FileEntry, Manifest
from retune.store.place import Store, StoreError

PIECE = 32 * 2**20  # bytes that are asked for at once
ATTEMPTS = 3
AT_ONCE = 8  # files that are sent, and pieces that are asked for, side by side
PULLING = ".pulling"  # after the name of an output: a copy that is being made
JOURNAL = ".pieces"  # in it: what has come
UNFINISHED = ".unfinished"  # in it: the files of which not all has come
SOURCE = ".source"  # in it: the folder in the store that is copied


class StoreDamaged(StoreError):
    """What the store has is not what was sent to it."""


def contents(name: str, manifest: Manifest) -> str:
    """Return the folder in the store with the files of an output."""
    return f"{name}/{digest({path: entry.model_dump() for path, entry in manifest.items()})}"


def push(store: Store, name: str, folder: Path, manifest: Manifest, record: bytes) -> bool:
    """Send an output and commit it with its `record`; returns False if another machine was first.

    What is there already, of an attempt that was ended, is not sent again; if it is removed at the same
    moment, as what nobody needs, it is. Raises StoreError if that happens again and again.
    """
    place = contents(name, manifest)
    for _ in range(ATTEMPTS):
        send_files(store, place, folder, manifest)
        if not store.create(f"{name}/{RECORD}", record):
            break
        if not _missing(store, place, manifest):
            return True
        store.remove([f"{name}/{RECORD}"])
    else:
        raise StoreError(f"{store.uri(name)} was removed while it was published; run again")
    winner = store.read(f"{name}/{RECORD}")
    if winner and contents(name, manifest_in(winner)) != place:
        store.remove([one.name for one in store.list(place)])
    return False


def manifest_in(record: bytes) -> Manifest:
    """Return the manifest of an output's record; {} of one of before there were manifests."""
    fields = json.loads(record).get("manifest", {})
    return {path: FileEntry.model_validate(entry) for path, entry in fields.items()}


def send_files(
    store: Store,
    place: str,
    folder: Path,
    manifest: Manifest,
    wanted: Callable[[], bool] = lambda: True,
) -> None:
    """Send the files of a manifest into a folder of the store. Raises InterruptedError once they are
    not `wanted()` any more."""
    missing = _missing(store, place, manifest)
    with _side_by_side() as (each, going_on):
        each(
            lambda path: store.send(
                f"{place}/{path}", folder / path, manifest[path], lambda: wanted() and going_on()
            ),
            missing,
        )


def _missing(store: Store, place: str, manifest: Manifest) -> list[str]:
    """Return the files of a manifest that a folder of the store has not, or not with all their bytes."""
    there = {one.name: one.bytes for one in store.list(place)}
    return [path for path, entry in manifest.items() if there.get(f"{place}/{path}") != entry.bytes]


def pull(
    store: Store, name: str, folder: Path, manifest: Manifest, notes: dict[str, bytes]
) -> None:
    """Make `folder` a copy of an output, with `notes` written into it last, by their names.

    Raises StoreDamaged for what is not as the manifest says, NoSpaceLeft.
    """
    beside, place = folder.with_name(folder.name + PULLING), contents(name, manifest)
    source = beside / SOURCE
    if beside.exists() and not (source.is_file() and source.read_text() == place):
        remove(beside)  # begun of an output that was made anew meanwhile
    beside.mkdir(parents=True, exist_ok=True)
    source.write_text(place)
    copy_files(store, place, beside, manifest)
    for path in (beside / JOURNAL, beside / UNFINISHED, source):
        remove(path)
    for file, content in notes.items():
        (beside / file).write_bytes(content)
    remove(folder)
    beside.rename(folder)


def copy_files(store: Store, place: str, folder: Path, manifest: Manifest) -> None:
    """Copy files of a folder of the store into one of ours; those that are there stay."""
    for path in manifest:
        _require_inside(path)
    missing = {
        path: entry for path, entry in manifest.items() if not _is_there(folder / path, entry)
    }
    copy = _Copy(store, place, folder, missing)
    copy.require_sizes()
    try:
        resumed = (folder / JOURNAL).is_file()
        damaged = copy.make()
        if damaged and resumed:  # it may have been so here, as after a power cut
            damaged = copy.make()
    except OSError as error:
        if is_disk_full(error):
            raise no_space_left(folder, error) from error
        raise
    if damaged:
        raise copy.error(damaged, "its sha256 is another")


class _Piece(NamedTuple):
    path: str
    start: int
    end: int


class _Copy:
    """Files that are copied in pieces, which a journal notes as they come."""

    def __init__(self, store: Store, place: str, folder: Path, missing: Manifest) -> None:
        self._store, self._place, self._folder, self._missing = store, place, folder, missing
        self._journal = folder / JOURNAL
        self._lock = Lock()

    def require_sizes(self) -> None:
        """Raise StoreDamaged unless every file is there with its bytes."""
        there = {one.name: one.bytes for one in self._store.list(self._place)}
        for path, entry in self._missing.items():
            count = there.get(f"{self._place}/{path}")
            if count != entry.bytes:
                seen = "it is not there" if count is None else f"it has {count:,} bytes"
                raise self.error(path, f"{seen}, and had {entry.bytes:,}")

    def make(self) -> str:
        """Copy what is missing; return a file that is not as it was, "" if all are. Of that one all
        comes again the next time."""
        missing = {
            path: entry
            for path, entry in self._missing.items()
            if not _is_there(self._folder / path, entry)
        }
        for path, entry in missing.items():
            _make_room(self._unfinished(path), entry.bytes)
        come = self._come()
        pieces = [
            piece
            for path, entry in missing.items()
            for piece in _pieces(path, entry.bytes)
            if piece not in come
        ]
        damaged: list[str] = []
        with _side_by_side() as (each, going_on):
            each(lambda piece: self._fetch(piece, going_on), pieces)
            each(lambda path: self._settle(path, damaged), missing)
        if damaged:
            remove(self._journal)
        return next(iter(damaged), "")

    def error(self, path: str, reason: str) -> StoreDamaged:
        return StoreDamaged(
            f"{self._store.uri(f'{self._place}/{path}')} is not what was made ({reason}): remove "
            f"{self._store.uri(self._place.rpartition('/')[0])} and run again, which makes it anew"
        )

    def _unfinished(self, path: str) -> Path:
        return self._folder / UNFINISHED / path

    def _come(self) -> set[_Piece]:
        if not self._journal.is_file():
            return set()
        lines = self._journal.read_text(encoding="utf-8").split("\n")[:-1]  # the last may be cut
        found = (line.rsplit("\t", 2) for line in lines)
        return {_Piece(path, int(start), int(end)) for path, start, end in found}

    def _fetch(self, piece: _Piece, going_on: Callable[[], bool]) -> None:
        if not going_on():
            return
        try:
            content = self._store.piece(f"{self._place}/{piece.path}", piece.start, piece.end)
        except FileNotFoundError:
            raise self.error(piece.path, "it was removed meanwhile") from None
        with self._unfinished(piece.path).open("r+b") as file:
            file.seek(piece.start)
            file.write(content)
        with self._lock, self._journal.open("a", encoding="utf-8") as journal:
            journal.write(f"{piece.path}\t{piece.start}\t{piece.end}\n")

    def _settle(self, path: str, damaged: list[str]) -> None:
        """Give a file its name, if it is what the manifest says."""
        unfinished, target = self._unfinished(path), self._folder / path
        if sha256(unfinished) != self._missing[path].sha256:
            damaged.append(path)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished.rename(target)


def _is_there(path: Path, entry: FileEntry) -> bool:
    """Tell whether a file has come, with all its bytes: a power cut may leave a name without them."""
    return path.is_file() and path.stat().st_size == entry.bytes


def _pieces(path: str, size: int) -> Iterator[_Piece]:
    for start in range(0, size, PIECE):
        yield _Piece(path, start, min(start + PIECE, size))


def _make_room(path: Path, size: int) -> None:
    """Make a file of a size, or leave what is there of it."""
    if not path.is_file() or path.stat().st_size != size:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.truncate(size)


def _require_inside(path: str) -> None:
    """Raise StoreDamaged for a path that leads elsewhere, or to a file of ours."""
    place = PurePosixPath(path)
    if place.is_absolute() or any(part.startswith(".") for part in place.parts) or "\n" in path:
        raise StoreDamaged(f"an output in the store names the file {path!r:.80}, which is refused")


@contextmanager
def _side_by_side() -> Iterator[tuple[Callable[..., None], Callable[[], bool]]]:
    """Give a function that does a call for each of some things in threads, and one that tells these
    whether to go on: what interrupts this thread ends them, too."""
    ended = Event()
    with ThreadPoolExecutor(AT_ONCE) as pool:

        def each(call: Callable[[Any], None], things: Iterable[Any]) -> None:
            for _ in pool.map(call, things):
                pass

        try:
            yield each, lambda: not ended.is_set()
        except BaseException:
            ended.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
