"""The child of `placed_stage`: ten steps a second, and a sealed checkpoint when it is told to end."""

import json
import os
import signal
import time
from pathlib import Path

from pydantic import BaseModel

from retune.child import emit, main
from retune.files import sha256
from retune.home import mark

SEAL = "sealed.json"
OFTEN = 10  # steps between two checkpoints


class Count(BaseModel):
    """The folder of the checkpoints, the log with a line a step, and to what number it counts."""

    folder: Path
    log: Path
    steps: int


def seal(job: Count, step: int) -> None:
    checkpoint = mark(job.folder) / f"checkpoint-{step}"
    checkpoint.mkdir()
    weights = checkpoint / "weights"
    weights.write_text(f"after {step}")
    files = {"weights": {"bytes": weights.stat().st_size, "sha256": sha256(weights)}}
    (checkpoint / SEAL).write_text(json.dumps({"held_out_loss": 1 / step, "files": files}))


def count(job: Count) -> dict:
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: told.append(number))
    there = [int(path.parent.name.split("-")[1]) for path in job.folder.glob(f"*/{SEAL}")]
    first = max(there, default=0)
    lines = job.log.read_text().splitlines()[:first] if first else []
    job.log.write_text("".join(f"{line}\n" for line in lines))
    for step in range(first + 1, job.steps + 1):
        time.sleep(0.1)
        with job.log.open("a") as log:
            log.write(json.dumps({"step": step, "pid": os.getpid()}) + "\n")
        if told or step % OFTEN == 0:
            seal(job, step)
        if told:
            raise SystemExit(1)
    emit("counted")
    return {}


if __name__ == "__main__":
    main(Count, count)
