"""What this machine has of the outputs in the store, and the store of this machine's."""

import json
from pathlib import Path

from retune.files import write_whole
from retune.home import make_home, mark_stage, remove
from retune.manifest import MAKER, RECORD, REJECTED, manifest_of
from retune.store import cache, checkpoints, transfer
from retune.store.place import Store, StoreError, store


def require_store() -> None:
    """Raise StoreError if there is to be a store and it cannot be used: before a run has worked for
    it. Raises BadLimit."""
    if shared := store():
        cache.limit()
        shared.has(RECORD)


known: set[tuple[str, str]] = set()  # addresses of stores, and outputs that are in them


def is_shared(name: str) -> bool:
    """Tell whether the store has an output; it is asked once for each that it has."""
    shared = store()
    if shared is None:
        return False
    key = (shared.address, name)
    if key not in known and shared.has(f"{name}/{RECORD}"):
        known.add(key)
    return key in known


def pull(shared: Store, name: str, folder: Path) -> None:
    """Copy an output from the store, if it has it."""
    from filelock import FileLock

    content = shared.read(f"{name}/{RECORD}")
    if content is None:
        return
    make_home()
    mark_stage(folder.parent)
    with FileLock(folder.with_name(f"{folder.name}{transfer.PULLING}.lock")):
        if (folder / RECORD).is_file():  # another process was faster
            return
        read = {note: shared.read(f"{name}/{note}") for note in (MAKER, REJECTED)}
        notes = {note: text for note, text in read.items() if text} | {RECORD: content}
        transfer.pull(shared, name, folder, transfer.manifest_in(content), notes)
    cache.trim(shared)


def share(shared: Store, name: str, folder: Path) -> None:
    """Publish an output. If another machine was first, its output takes this one's place."""
    mine = _with_manifest(folder)
    manifest = transfer.manifest_in(mine)
    theirs = shared.read(f"{name}/{RECORD}")
    if theirs is None and not transfer.push(shared, name, folder, manifest, mine):
        theirs = shared.read(f"{name}/{RECORD}")
        if theirs is None:
            raise StoreError(f"{shared.uri(name)} was removed while it was published; run again")
    known.add((shared.address, name))
    if theirs is None:
        for note in (MAKER, REJECTED):
            if (folder / note).is_file():
                shared.create(f"{name}/{note}", (folder / note).read_bytes())
        shared.remove([one.name for one in shared.list(checkpoints.place_of(name))])
    elif transfer.manifest_in(theirs) != manifest:
        remove(folder)
    elif theirs != mine:
        write_whole(folder / RECORD, theirs.decode())


def _with_manifest(folder: Path) -> bytes:
    """Return an output's record; one of before there were manifests is written anew, with one."""
    content = (folder / RECORD).read_bytes()
    fields = json.loads(content)
    if fields.get("manifest"):
        return content
    notes = (RECORD, MAKER, REJECTED)
    files = {path: entry for path, entry in manifest_of(folder).items() if path not in notes}
    if not files:
        return content
    fields["manifest"] = {path: entry.model_dump() for path, entry in files.items()}
    write_whole(folder / RECORD, json.dumps(fields, indent=1))
    return (folder / RECORD).read_bytes()
