"""Which code the programs run that tests start: this checkout's.

An environment that several checkouts share knows one of them by `pip install -e`, and its `retune` would
run that one's code.
"""

import os
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from retune.home import cache_dir

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "retune_app"  # which the program `retune` imports, and which lets it find the others


def python_path() -> str:
    """Return PYTHONPATH for this checkout: its root, and a folder in the user's cache in which the
    package of the program is a link to it."""
    folder = cache_dir() / "checkouts" / sha256(os.fsencode(ROOT)).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        (folder / PACKAGE).symlink_to(ROOT / "flows" / "installed", target_is_directory=True)
    return os.pathsep.join(map(str, (ROOT, folder)))
