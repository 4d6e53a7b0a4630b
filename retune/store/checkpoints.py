"""Checkpoints in the store: a training that lost its machine goes on, on another, where it was.

While a training runs, its newest sealed checkpoint is sent in the background. In the store each is a
folder `partial/<stage>/<fingerprint>/checkpoint-<step>-<digest>/`, whole once `whole.json` lies in it;
they go when the output is published. No training waits for the store, or ends for it.
"""

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any, NamedTuple

from retune.files import files_in
from retune.home import mark, remove
from retune.manifest import FileEntry, Manifest, manifest_of
from retune.store import transfer
from retune.store.place import Store, StoreError, store

WHOLE = "whole.json"  # in a checkpoint in the store, written last: its loss and its files
POLL = 5.0  # seconds between two looks for a new checkpoint
NEWEST_COUNT = 2  # that stay in the store besides the best, as on the disk
CHECKPOINT, BESIDE = "checkpoint", "beside"  # folders of one in the store

logger = logging.getLogger(__name__)


class _Copy(NamedTuple):
    """A checkpoint that is whole in the store: its step, and its folder there."""

    step: int
    place: str


def place_of(name: str) -> str:
    """Return the folder in the store with the checkpoints of an output that is being made."""
    return f"partial/{name}"


def are_there(name: str) -> bool:
    """Tell whether the store has a checkpoint of an output that is not made yet."""
    shared = store()
    return shared is not None and any(_whole(shared, place_of(name)))


def newest_step(name: str) -> int | None:
    """Return the step of the newest checkpoint in the store of an output that is not made yet; None if
    there is none, or the store does not tell."""
    shared = store()
    try:
        copies = list(_whole(shared, place_of(name))) if shared else []
    except StoreError:
        return None
    return max(copies).step if copies else None


@contextmanager
def kept(name: str, folder: Path, seal: str, beside: Sequence[str]) -> Iterator[None]:
    """Keep the checkpoints in `folder` in the store, too, for the length of a block; before it, the
    newest one comes from there if it is newer than those here.

    A checkpoint is a folder `checkpoint-<step>` that counts once the file `seal` lies in it, which
    names its `files` and its `held_out_loss`. `beside` are files next to `folder` that go with it.
    Raises StoreError if the store cannot be asked before the block.
    """
    shared = store()
    if shared is None:
        yield
        return
    copies = _Copies(shared, name, folder, seal, beside)
    remove(copies.linked)
    copies.fetch()
    following = Thread(target=copies.follow, daemon=True)
    following.start()
    try:
        yield
    except BaseException:
        copies.ended.set()
        following.join()
        copies.leave()
        raise
    copies.useless.set()  # the output is made
    copies.ended.set()
    following.join()


class _Copies:
    """The checkpoints of one training, here and in the store."""

    def __init__(
        self, shared: Store, name: str, folder: Path, seal: str, beside: Sequence[str]
    ) -> None:
        self._store, self._place = shared, place_of(name)
        self._folder, self._seal, self._beside = folder, seal, beside
        self.linked = folder.with_name("checkpoints.sent")
        self._pulled = folder.with_name("checkpoints.pulling")
        self._sent = ""  # the checkpoint that was sent last
        self._losses: dict[str, float] = {}  # of those in the store
        self.ended, self.useless = Event(), Event()

    def fetch(self) -> None:
        """Copy the newest checkpoint that is whole in the store, if it is newer than those here."""
        here = self._newest()
        for copy in sorted(_whole(self._store, self._place), reverse=True):
            if here and copy.step <= _step(here):
                break
            try:
                self._take(copy)
            except transfer.StoreDamaged as error:
                logger.warning("%s; going back to the checkpoint before", error)
                continue
            self._sent = f"checkpoint-{copy.step}"
            break
        remove(self._pulled)

    def follow(self) -> None:
        """Send each new checkpoint until the block ends."""
        told = ""
        while not self.ended.wait(POLL):
            try:
                self._send_newest()
                told = ""
            except Exception as error:  # whatever it is, the next one may go through
                if str(error) != told:
                    logger.warning(
                        "the training goes on, and its checkpoint is sent later: %s", error
                    )
                told = str(error)

    def leave(self) -> None:
        """Send the checkpoint that an interrupted training leaves. Where there is none any more, as
        after a training that diverged, none stays in the store; those that this training neither sent
        nor took may be of another machine."""
        try:
            if self._newest():
                self._send_newest()
            elif self._sent:
                self._remove(place=self._place)
        except StoreError as error:
            logger.warning("the last checkpoint is on this machine alone: %s", error)

    def _newest(self) -> Path | None:
        sealed = (path.parent for path in self._folder.glob(f"checkpoint-*/{self._seal}"))
        return max(sealed, key=_step, default=None)

    def _send_newest(self) -> None:
        checkpoint = self._newest()
        if checkpoint is None or checkpoint.name == self._sent:
            return
        with suppress(FileNotFoundError, InterruptedError):  # it was removed, or the output is made
            with self._linked(checkpoint) as files:
                self._send(checkpoint, files)
            self._sent = checkpoint.name

    def _send(self, checkpoint: Path, files: Path) -> None:
        text = (files / CHECKPOINT / self._seal).read_bytes()
        seal = json.loads(text)
        key = f"{self._place}/{checkpoint.name}-{hashlib.sha256(text).hexdigest()[:16]}"
        known = {f"{CHECKPOINT}/{path}": one["sha256"] for path, one in seal["files"].items()}
        manifest = manifest_of(files, known)
        transfer.send_files(self._store, key, files, manifest, lambda: not self.useless.is_set())
        whole = {
            "held_out_loss": seal["held_out_loss"],
            "files": {path: entry.model_dump() for path, entry in manifest.items()},
        }
        self._store.write(f"{key}/{WHOLE}", json.dumps(whole).encode())
        self._retain()

    @contextmanager
    def _linked(self, checkpoint: Path) -> Iterator[Path]:
        """Give a folder with the files of a checkpoint, which stay when that is removed meanwhile, and
        with those beside it, which grow."""
        folder = self.linked
        remove(folder)
        try:
            for name, path in files_in(checkpoint).items():
                _link(path, folder / CHECKPOINT / name)
            for name in self._beside:
                if (path := self._folder.with_name(name)).is_file():
                    (folder / BESIDE).mkdir(exist_ok=True)
                    (folder / BESIDE / name).write_bytes(path.read_bytes())
            yield folder
        finally:
            remove(folder)

    def _take(self, copy: _Copy) -> None:
        """Copy a checkpoint to its place here, with what lies beside it. Raises StoreDamaged."""
        content = self._store.read(f"{copy.place}/{WHOLE}")
        manifest = _files(content or b"{}")
        beside = self._pulled / copy.place.rpartition("/")[2]
        beside.mkdir(parents=True, exist_ok=True)
        transfer.copy_files(self._store, copy.place, beside, manifest)
        target = mark(self._folder) / f"checkpoint-{copy.step}"
        remove(target)
        for path in (beside / BESIDE).glob("*"):
            path.replace(self._folder.with_name(path.name))
        (beside / CHECKPOINT).rename(target)

    def _retain(self) -> None:
        """Remove from the store all but the last two and the one of the lowest held-out loss."""
        copies = sorted(_whole(self._store, self._place))
        for copy in copies:
            if copy.place not in self._losses:
                content = self._store.read(f"{copy.place}/{WHOLE}") or b"{}"
                self._losses[copy.place] = json.loads(content).get("held_out_loss", float("inf"))
        best = min(copies, key=lambda copy: self._losses[copy.place])
        for copy in copies[:-NEWEST_COUNT]:
            if copy != best:
                self._remove(copy.place)

    def _remove(self, place: str) -> None:
        names = [one.name for one in self._store.list(place)]
        self._store.remove(sorted(names, key=lambda name: not name.endswith(f"/{WHOLE}")))


def _whole(shared: Store, place: str) -> Iterator[_Copy]:
    """Yield the checkpoints in a folder of the store that were sent to their end."""
    for one in shared.list(place):
        if match := re.fullmatch(rf"(.*/checkpoint-(\d+)-[0-9a-f]+)/{re.escape(WHOLE)}", one.name):
            yield _Copy(int(match[2]), match[1])


def _files(whole: bytes) -> Manifest:
    fields: dict[str, Any] = json.loads(whole).get("files", {})
    return {path: FileEntry.model_validate(entry) for path, entry in fields.items()}


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:  # a disk without hard links
        target.write_bytes(source.read_bytes())
