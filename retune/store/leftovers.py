"""What may go of the store, by the same reasons as on a machine's disk (see `retune.retention`).

It is asked of MLflow, which all machines must have in common: a run that another one knows would need
what seems to be nobody's.
"""

import os
import re
import time
from collections import defaultdict
from pathlib import Path

from retune.errors import RetuneError
from retune.manifest import RECORD
from retune.retention import DAY, Inventory, OutputFolder, Retention, needed
from retune.store.place import Store, Stored

# An output, or the checkpoints of one that is being made; whatever else lies in the store is not ours.
_OURS = re.compile(r"((?:partial/)?([a-z][a-z0-9_-]*/[0-9a-f]{16}))/.+")


class OwnTracking(RetuneError):
    """This machine has an MLflow of its own, which does not know what others need."""


def inventory_of(shared: Store, retention: Retention) -> Inventory:
    """Look at every output in the store; changes nothing. Raises OwnTracking, StoreError."""
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        raise OwnTracking(
            "what nobody needs of the store is known by the runs of all machines: set "
            "MLFLOW_TRACKING_URI to the server that they have in common"
        )
    wanted = dict(needed(retention))
    leftovers: list[OutputFolder] = []
    kept: list[OutputFolder] = []
    for place, files in sorted(_folders(shared).items()):
        stays, reason = _judged(place, files, wanted, retention)
        folder = OutputFolder(Path(place), sum(file.bytes for file in files), reason)
        (kept if stays else leftovers).append(folder)
    return Inventory(tuple(leftovers), tuple(kept))


def collect_from(shared: Store, retention: Retention) -> list[OutputFolder]:
    """Remove from the store what may go, and return it. An output's record goes first: what is left of
    it, if this ends early, is no output any more, and goes the next time."""
    gone = []
    for leftover in inventory_of(shared, retention).leftovers:
        names = [file.name for file in shared.list(leftover.folder.as_posix())]
        shared.remove(sorted(names, key=lambda name: not name.endswith(f"/{RECORD}")))
        gone.append(leftover)
    return gone


def _folders(shared: Store) -> dict[str, list[Stored]]:
    found: dict[str, list[Stored]] = defaultdict(list)
    for file in shared.list(""):
        if match := _OURS.fullmatch(file.name):
            found[match[1]].append(file)
    return found


def _judged(
    place: str, files: list[Stored], wanted: dict[str, str], retention: Retention
) -> tuple[bool, str]:
    """Return whether a folder stays, and why, or why not."""
    name = place.removeprefix("partial/")
    if name in wanted:
        return True, wanted[name]
    age = max(0.0, time.time() - max(file.written for file in files)) / DAY
    of_training = place != name
    limit = retention.checkpoint_days if of_training else retention.keep_days
    if age < limit:
        words = "checkpoints to go on from" if of_training else "made lately"
        return True, f"{words} ({age:.1f} of {limit:g} days)"
    subject = "checkpoints of a training that did not end" if of_training else "nobody needs it"
    return False, f"{subject}, {age:.1f} days old"
