"""Told by Python itself, at the start of every process whose PYTHONPATH has its folder: what it imports.

`benchmarks/imports.py` copies it there. Each process leaves a JSON file beside it when it ends: its
`script`, whether it was `forked`, the top-level `packages` that it imported, those that this project's
code `asked` for (a forked child finds some imported), how many `modules`, and the CPU `seconds` of their
imports. With a file NO_FORKS there no fork server starts: every child imports for itself.
"""

import atexit
import builtins
import json
import os
import sys
import time
from pathlib import Path

NO_FORKS = "no-forks"
OURS = ("tasks", "retune", "expectations", "flows", "__main__")


def watch(folder: Path) -> None:
    """Take notes from now on, and write them to `folder` in the end."""
    before: set[str] = set()
    asked: set[str] = set()
    spent = {"depth": 0, "seconds": 0.0}
    forked, script = False, ""
    bootstrap = sys.modules["_frozen_importlib"]
    load, imported = bootstrap._find_and_load, builtins.__import__

    def timed(name, *rest):
        spent["depth"] += 1
        begun = time.process_time()
        try:
            return load(name, *rest)
        finally:
            spent["depth"] -= 1
            if not spent["depth"]:
                spent["seconds"] += time.process_time() - begun

    def noted(name, globals=None, locals=None, fromlist=(), level=0):
        nonlocal script
        importer = (globals or {}).get("__name__") or ""
        # The first that imports something: what runs later (llama.cpp's converter) takes its name.
        if importer == "__main__" and not script:
            script = globals.get("__file__") or ""
        if not level and importer.partition(".")[0] in OURS:
            asked.add(name.partition(".")[0])
        return imported(name, globals, locals, fromlist, level)

    def after_fork():
        nonlocal forked, script
        forked, script = True, ""
        before.update(sys.modules)
        asked.clear()
        spent.update(depth=0, seconds=0.0)

    def write():
        new = set(sys.modules) - before
        notes = {
            "script": script,
            "forked": forked,
            "packages": sorted({name.partition(".")[0] for name in new}),
            "asked": sorted(asked),
            "modules": len(new),
            "seconds": spent["seconds"],
        }
        (folder / f"{os.getpid()}-{time.time_ns()}.json").write_text(json.dumps(notes))

    bootstrap._find_and_load, builtins.__import__ = timed, noted
    os.register_at_fork(after_in_child=after_fork)
    atexit.register(write)


if __name__ == "sitecustomize":
    BESIDE = Path(__file__).parent
    if (BESIDE / NO_FORKS).exists() and "retune.forkserver" in sys.orig_argv:
        raise SystemExit(1)
    watch(BESIDE)
