"""Makes the demo's inputs: the dataset, two broken variants of it, and the base model.

    python -m demo.prepare

The base model is pretrained once and kept in the user's cache, by the hash of the code that made it.
"""

import hashlib
import shutil
import time
from pathlib import Path

from demo import dataset
from retune.workspace import cache_dir, home

SOURCES = ("base_model.py", "dataset.py", "text.py", "world.py")
PROGRESS_SECONDS = 15


def prepare(into: Path, cache: Path) -> None:
    """Write the demo's files into the folder `into`; what is there and up to date is left alone."""
    key = fingerprint()
    if (into / "made-by").is_file() and (into / "made-by").read_text() == key:
        print(f"Demo data is up to date in {into}")
        return
    into.mkdir(parents=True, exist_ok=True)
    rows = dataset.make()
    for name, variant in (
        ("finetome-demo", rows),
        ("broken-roles", dataset.broken_roles(rows)),
        ("broken-scores", dataset.broken_scores(rows)),
    ):
        dataset.write(variant, into / f"{name}.jsonl")
        print(f"Wrote {into / name}.jsonl: {len(variant):,} rows")
    shutil.rmtree(into / "base", ignore_errors=True)
    shutil.copytree(base_model(cache / f"demo-base-{key}"), into / "base")
    (into / "made-by").write_text(key)
    print(f"Wrote {into / 'base'}: the base model")


def base_model(folder: Path) -> Path:
    """Return `folder`, which holds the base model; pretrain it there if it does not."""
    if folder.is_dir():
        return folder
    from demo.base_model import pretrain

    print("Pretraining the demo's base model (two minutes, once)", flush=True)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    pretrain(partial, progress=_Slow())
    partial.rename(folder)
    return folder


def fingerprint() -> str:
    """Return what tells one version of the demo's files from another: the hash of their code."""
    here = Path(__file__).parent
    code = b"".join((here / name).read_bytes() for name in SOURCES)
    return hashlib.sha256(code).hexdigest()[:12]


class _Slow:
    """Prints a line of progress now and then."""

    def __init__(self) -> None:
        self._printed = time.monotonic()

    def __call__(self, line: str) -> None:
        if time.monotonic() - self._printed >= PROGRESS_SECONDS:
            self._printed = time.monotonic()
            print(f"  {line}", flush=True)


if __name__ == "__main__":
    prepare(home() / "demo", cache_dir())
