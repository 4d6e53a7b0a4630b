"""How a host without a run of its own gets the job of a training: from the first host, over its store.

What lies in files goes along: the rows, the held-out ones and the tokenizer. The base does not: each host
reads it from the Hub, or from the same path.
"""

import io
import json
import tarfile
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.train.job import TrainJob

if TYPE_CHECKING:
    from torch.distributed import TCPStore

WANTED, JOB = "wanted", "job"  # keys
FILES = ("rows", "held_out", "tokenizer")  # of a job, by the names of its fields
CHUNK = 1 << 23  # bytes of a value in the store


def offer(store: "TCPStore", job: TrainJob) -> None:
    """Put a job into the store if another host has asked for it, and its files if they are wanted."""
    for key, put in ((JOB, _put_job), (FILES[0], _put_files)):
        if store.check([f"{WANTED}/{key}"]) and not store.check([key]):
            put(store, job)


def _put_job(store: "TCPStore", job: TrainJob) -> None:
    note = {"job": job.model_dump(mode="json"), "file": _identity(job.rows)}
    store.set(JOB, json.dumps(note))


def _put_files(store: "TCPStore", job: TrainJob) -> None:
    for name in reversed(FILES):  # the first key says that all are there
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            archive.add(getattr(job, name), name)
        view = packed.getbuffer()
        starts = range(0, len(view), CHUNK)
        for number, begin in enumerate(starts):
            # It takes bytes, too, and its types do not tell.
            store.set(f"{name}/{number}", view[begin : begin + CHUNK].tobytes())  # type: ignore[arg-type]
        store.set(name, str(len(starts)))


def take(store: "TCPStore", folder: Path, patience: timedelta) -> TrainJob:
    """Return the first host's job, with copies of its files in `folder`, which is empty.

    If its folders are on a disk that this host shares it is taken as it is.
    """
    note = json.loads(_get(store, JOB, patience))
    job = TrainJob.model_validate(note["job"])
    if job.folder.is_dir() and _identity(job.rows) == note["file"]:
        return job
    for name in FILES:
        count = int(_get(store, name, patience))
        packed = b"".join(store.get(f"{name}/{number}") for number in range(count))
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(folder, filter="data")
    return job.model_copy(update={"folder": folder} | {name: folder / name for name in FILES})


def _get(store: "TCPStore", key: str, patience: timedelta) -> bytes:
    store.set(f"{WANTED}/{key}", "1")
    store.wait([key], patience)
    return store.get(key)


def _identity(path: Path) -> list[int]:
    """Return what tells a file from a copy of it on another disk."""
    if not path.exists():
        return []
    status = path.stat()
    return [status.st_ino, status.st_mtime_ns, status.st_size]
