"""Outputs under construction: each appears whole, under its own name, or not at all."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from retune.disk_space import is_disk_full, no_space_left
from retune.errors import RetuneError
from retune.home import make_home, mark_stage, remove
from retune.manifest import NOTHING, RECORD, manifest_of
from retune.outputs import SomeOutput, Step, held
from retune.store import cache, sharing


class OutputBusy(RetuneError):
    """Another process is building the same output."""


class Build:
    """An output under construction; `path` is the folder to write into. One that is not final is
    handed on, and made anew by the next run."""

    def __init__(self, step: Step, path: Path) -> None:
        self.step, self.path, self.is_final = step, path, True
        self._started, self._since = datetime.now(UTC), time.monotonic()

    def finish(
        self, kind: type[SomeOutput], hashed: Mapping[str, str] = NOTHING, **fields: Any
    ) -> SomeOutput:
        """Return the record of this output and write it next to the files, which stay as they are.

        `hashed` are the sha256 of files that were hashed already, by their paths in the folder.
        """
        manifest = manifest_of(self.path, hashed)
        manifest.pop(RECORD, None)  # of an attempt that ended just before its output appeared
        seconds = time.monotonic() - self._since  # the clock may be set meanwhile
        output = kind(
            step=self.step, manifest=manifest, started=self._started, seconds=seconds, **fields
        )
        (self.path / RECORD).write_text(output.model_dump_json(indent=1))
        return output


@contextmanager
def building(step: Step, keep_partial: bool = False) -> Iterator[Build]:
    """Build `step`'s output folder; it appears under its own name when the block ends well.

    After a failure only `*.log` files stay in the partial folder, until the next attempt. With
    `keep_partial` all of it stays and is handed out again (training resumes from the checkpoints
    in it). Raises OutputBusy while another process builds the same output, NoSpaceLeft when the
    disk is full, StoreError where it cannot be published: it is there, and is published when it is
    used the next time.
    """
    from filelock import FileLock, Timeout

    shared, final = held(step)
    partial = final.with_name(final.name + ".partial")
    make_home()
    mark_stage(final.parent)
    try:
        # A kernel lock goes with its process, also when that is killed; a lock file would stay.
        with FileLock(final.with_name(final.name + ".lock"), timeout=0):
            if not keep_partial:
                remove(partial)
            partial.mkdir(exist_ok=True)
            build = Build(step, partial)
            try:
                yield build
            except BaseException:
                if not keep_partial:
                    _keep_logs(partial)
                raise
            if not build.is_final:
                remove(partial / RECORD)
            if shared is not None and build.is_final and (final / RECORD).is_file():
                remove(partial)  # another machine's came meanwhile, and may be in use
                return
            remove(final)
            partial.rename(final)
            if shared is not None and build.is_final:
                sharing.share(shared, step.name, final)
                cache.trim(shared)
    except Timeout:
        raise OutputBusy(
            f"another run is building {step.name}; wait for it and run again: its output is reused"
        ) from None
    except Exception as error:
        if isinstance(error, RetuneError) or not is_disk_full(error):
            raise
        raise no_space_left(final, error) from error


def _keep_logs(partial: Path) -> None:
    """Remove what a failed attempt left, which may be large, but for the logs that say why."""
    for path in partial.iterdir():
        if path.is_dir() or path.suffix != ".log" or not path.stat().st_size:
            remove(path)
    if not any(partial.iterdir()):
        partial.rmdir()
