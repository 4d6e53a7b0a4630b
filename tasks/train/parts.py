"""Files of processes that train together on disks of their own.

Each process writes its own part of a checkpoint. A checkpoint lies whole in the folder of the first
process alone: there the parts of other hosts are brought before it is sealed, and from there, when a
training goes on, each host gets all of it. Where hosts share a disk nothing is sent.
"""

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from retune.files import files_in
from retune.home import mark, remove
from tasks.train import checkpoints
from tasks.train.distributed import barrier, broadcast, gathered, is_first, rank, world_size
from tasks.train.job import TrainJob

CHUNK = 1 << 24  # bytes that are sent at a time; on a GPU they take its memory


class Disks:
    """Which processes have a job's folder in common; made by all of them at once.

    Of those that do, the one of the lowest rank keeps it.
    """

    def __init__(self, job: TrainJob) -> None:
        self._job = job
        self._keepers = _keepers(job.folder)

    @property
    def is_keeper(self) -> bool:
        """Whether this process sees to the folder of a disk."""
        return self._keepers[rank()] == rank()

    @property
    def are_shared(self) -> bool:
        return not any(self._keepers)

    def newest_checkpoint(self) -> Path | None:
        """Return the newest whole checkpoint on any of the disks, which is then on each; None at the
        start. The log and the usage file come with it."""
        job = self._job
        newest = None
        if self.is_keeper:
            if not any(job.checkpoints.glob("*")):
                mark(job.checkpoints)
            newest = checkpoints.newest_whole(job.checkpoints)
        steps = gathered(checkpoints.step_of(newest) if newest else 0)
        source = steps.index(max(steps))  # the first process, if others have none newer
        if not steps[source]:
            return None
        name = broadcast(newest and newest.name, source)
        if not self.are_shared:
            self._spread(job.checkpoints / name, source)
        return job.checkpoints / name

    def gather(self, checkpoint: Path) -> None:
        """Bring the parts of a checkpoint, which all processes have written, to the first process."""
        if self.are_shared:
            barrier()
            return
        parts = gathered(list(files_in(checkpoint)) if self.is_keeper else [])
        present = set(parts[0])
        for source, names in enumerate(parts):
            for name in sorted(set(names) - present):
                _copy(checkpoint / name, source, is_first())
            present |= set(names)
        if self.is_keeper and not is_first():
            for own in self._job.checkpoints.glob("checkpoint-*"):
                remove(own)

    def _spread(self, checkpoint: Path, source: int) -> None:
        names = broadcast(list(files_in(checkpoint)), source)
        lacks = self.is_keeper and rank() != source
        if lacks and checkpoint.exists():
            remove(checkpoint)
        for name in names:
            _copy(checkpoint / name, source, lacks)
        if source:  # else they are where they belong
            for path in (self._job.log, self._job.usage):
                _copy(path, source, is_first())
        barrier()


def _keepers(folder: Path) -> list[int]:
    """Return for each process the lowest rank of those that see the same folder."""
    if world_size() == 1:
        return [0]
    # Asked for by a name that is new, no network disk has an old answer.
    with tempfile.NamedTemporaryFile(prefix=".disk-", dir=folder) as file:
        names = gathered(Path(file.name).name)
        lowest = next(number for number, name in enumerate(names) if (folder / name).exists())
        return gathered(lowest)


def _copy(path: Path, source: int, is_wanted: bool) -> None:
    """Send a file, if it is there, from the process `source` to all; those that want it write it to the
    same path."""
    is_source = rank() == source
    size = path.stat().st_size if is_source and path.exists() else None
    size = broadcast(size, source)
    if size is None:
        return
    with ExitStack() as files:
        reading = files.enter_context(path.open("rb")) if is_source else None
        writing = None
        if is_wanted and not is_source:
            path.parent.mkdir(parents=True, exist_ok=True)
            writing = files.enter_context(path.open("wb"))
        for begin in range(0, size, CHUNK):
            chunk = _sent(reading, min(CHUNK, size - begin), source)
            if writing:
                writing.write(chunk)


def _sent(reading: BinaryIO | None, size: int, source: int) -> bytes:
    """Return the next bytes of a file that is open in the process `source`."""
    import torch
    from torch import distributed

    chunk = torch.empty(size, dtype=torch.uint8)
    if reading:
        chunk = torch.frombuffer(bytearray(reading.read(size)), dtype=torch.uint8)
    chunk = chunk.to("cuda" if distributed.get_backend() == "nccl" else "cpu")
    distributed.broadcast(chunk, source)
    return chunk.cpu().numpy().tobytes()
