"""The probe: a small fixed recipe that an environment runs down the whole line, and what came of it."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel

from retune.environment import ROOT, python_path
from retune.errors import RetuneError
from retune.files import digest

OTHERS = ("PREFECT", "MLFLOW", "RETUNE_HOME", "RETUNE_WORK")
ENDED = (0, 1)  # exit codes of a run that came to its end: promoted, or a gate said no
LAST_LINES = 4


class ProbeFailed(RetuneError):
    """The material of the probe could not be made."""


class Probed(BaseModel):
    """What an environment made of the probe; `failure` says why it came to no end, "" if it did.

    Digests are of what training sees: `tokens` of the ids of all rows, `mask` of what of them is learnt.
    `speed` are the seconds of the stages.
    """

    failure: str = ""
    tokens: str = ""
    mask: str = ""
    losses: list[float] = []
    measures: dict[str, float] = {}
    merge: dict[str, float] = {}
    answers: list[str] = []
    speed: dict[str, float] = {}


def make_material(folder: Path) -> None:
    """Write the base, rows and recipe that all environments are given. Raises ProbeFailed."""
    command = [sys.executable, "-m", "demo.probe", str(folder)]
    done = subprocess.run(
        command, cwd=ROOT, env=_variables(), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ProbeFailed(f"the probe's material could not be made: {_last(done.stderr)}")


def probe(python: Path, material: Path, home: Path) -> Probed:
    """Run the probe's recipe with an environment's Python, in a home of its own."""
    command = [str(python), "-m", "flows.cli", "run", "recipe.yaml"]
    done = subprocess.run(
        command, cwd=material, env=_variables() | {"RETUNE_HOME": str(home)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode not in ENDED:
        return Probed(failure=_last(done.stderr or done.stdout))
    return outcome(home)


def outcome(home: Path) -> Probed:
    """Return what a run of the probe left in the home folder."""
    outputs = {
        path.parent.parent.name: json.loads(path.read_text())
        for path in sorted(home.glob("work/*/*/output.json"))
    }
    made = {stage: next(home.glob(f"work/{stage}/*/output.json")).parent for stage in outputs}
    missing = {"format", "train", "evaluate", "merge"} - made.keys()
    if missing:
        return Probed(failure=f"the line ended before {', '.join(sorted(missing))}")
    tokens, mask = _rows(made["format"])
    log = (made["train"] / "training_log.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in log]
    return Probed(
        tokens=tokens,
        mask=mask,
        losses=[entry["train/loss"] for entry in entries if "train/loss" in entry],
        measures=_quality(outputs["evaluate"]["metrics"]),
        merge=_quality(outputs["merge"]["metrics"]),
        answers=[
            one["text"] for one in json.loads((made["evaluate"] / "answers.json").read_text())
        ],
        speed={stage: output["seconds"] for stage, output in outputs.items()},
    )


def _rows(folder: Path) -> tuple[str, str]:
    import polars as pl

    rows = [
        pl.read_parquet(folder / name).to_dicts() for name in ("train.parquet", "held_out.parquet")
    ]
    every = [row for part in rows for row in part]
    return digest([row["input_ids"] for row in every]), digest(
        [(row["row"], row["unlearned"]) for row in every]
    )


def _quality(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the measures that say how good something is, not how fast or large."""
    kinds = ("loss", "perplexity", "kl_divergence", "same_top_token")
    return {name: value for name, value in metrics.items() if name.split("/")[0] in kinds}


def _variables() -> dict[str, str]:
    """Return this process's variables, without servers and folders of anybody's own."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(OTHERS)}
    return ours | {"PYTHONPATH": python_path()}


def _last(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return " / ".join(lines[-LAST_LINES:])[-600:]
