"""Makes the demo's inputs: the dataset, two broken variants of it, and the base model.

    python -m demo.prepare

The base model is pretrained once and kept in the user's cache, by the hash of the code that made it.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from demo import dataset
from retune.home import MARKER, NotOurs, cache_dir, keep_private, make_home, mark, remove

SOURCES = ("base_model.py", "dataset.py", "text.py", "world.py")


def prepare(into: Path, cache: Path) -> None:
    """Write the demo's files into the folder `into`; what is there and up to date is left alone.

    Raises NotOurs if another model is there.
    """
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
    base = into / "base"
    if (into / "made-by").is_file() and base.is_dir():
        (base / MARKER).touch()  # it was made before there were markers
    remove(base)
    shutil.copytree(base_model(cache / f"demo-base-{key}"), mark(base), dirs_exist_ok=True)
    (into / "made-by").write_text(key)
    print(f"Wrote {into / 'base'}: the base model")


def base_model(folder: Path) -> Path:
    """Return `folder`, which holds the base model; pretrain it there if it does not."""
    if folder.is_dir():
        return folder
    print("Pretraining the demo's base model (two minutes, once)", flush=True)
    scratch = mark(folder.with_name("demo-base.partial"))
    partial = scratch / folder.name
    remove(partial)
    partial.mkdir()
    pretrain(partial)
    partial.rename(folder)
    remove(scratch)
    return folder


def pretrain(into: Path) -> None:
    """Pretrain in a child process, whose libraries' chatter goes to a log. Raises RuntimeError."""
    log = into.with_suffix(".log")
    # Spinning OpenMP threads make a small model many times slower on a machine that others share.
    environment = {"OMP_WAIT_POLICY": "PASSIVE"} | os.environ
    command = [sys.executable, "-m", "demo.pretrain", str(into)]
    with log.open("w") as stderr:
        done = subprocess.run(command, stderr=stderr, env=environment, check=False)
    if done.returncode:
        last = log.read_text().strip().splitlines()[-1:]
        raise RuntimeError(f"pretraining failed: {''.join(last)}; the log is {log}")


def fingerprint() -> str:
    """Return what tells one version of the demo's files from another: the hash of their code."""
    here = Path(__file__).parent
    code = b"".join((here / name).read_bytes() for name in SOURCES)
    return hashlib.sha256(code).hexdigest()[:12]


if __name__ == "__main__":
    keep_private()
    try:
        prepare(make_home() / "demo", cache_dir())
    except NotOurs as error:
        sys.exit(f"the demo's files were not made: {error}")
