"""A run as MLflow keeps it: what made it (see `flows.provenance`), and what came of it."""

import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict

from flows.provenance import FOLDER
from retune.errors import RetuneError
from retune.escaping import visible
from retune.recipe import Recipe
from retune.records import HarnessPin, Pins
from retune.tracking import artifacts, client, download_json

REPLAY_OF = "retune.replay_of"  # tag of a run that was made again: of which
CALIBRATION = "retune.calibration_replicas"  # tag of a run of `retune calibrate`
TRAINED, ERROR = "retune.step.train", "retune.error"  # tags
MODELS = "models.json"  # of a stage: its large files with their hashes
# Measures of the machine and the hour, not of what was made.
UNSTEADY = frozenset({"seconds", "tokens_per_second", "median_tokens_per_second", "mfu"}) | {
    *("median_mfu", "matmul_ceiling_tflops", "gpu", "peak_memory_gib", "gpu_hours", "energy_kwh"),
    *("cost", "write_memory_gib"),
}
# Stages whose measures are of the machine, of another model, or the word of one; no replay has them.
NOT_MADE = ("system", "champion", "anchor", "judge")
# What a run was compared with or decided by on its day, which makes nothing of what it trains.
OF_THE_DAY = ("accepted", "champion")
SETTINGS = {  # of the recipe, by the pin that fixes what it names
    "dataset": "dataset.source",
    "mix": "dataset.mix",
    "model": "model.base",
    "base_16bit": "merging.base_16bit",
    "benchmarks": "validation.decontamination.files",
    "classifier": "validation.classifier.model",
    "suites": "evaluation.suites",
    "judge": "evaluation.judge.gguf",
    "judge_labels": "evaluation.judge.labels",
    "cases": "evaluation.suites",
    "tasks": "evaluation.tasks",
}


class NotReplayable(RetuneError):
    """A run that cannot be made again: MLflow does not have what it takes."""


class NotTheSame(RetuneError):
    """An input of a run is another by now."""


class Made(NamedTuple):
    """What came of a run: measures by stage and name (`train/final_loss`, `q4_k_m/perplexity`), and the
    sha256 of each large file or folder by stage and name (`train/adapter`)."""

    measures: dict[str, float]
    files: dict[str, str]


class Recorded(BaseModel):
    """What made a run: the recipe with every revision fixed, the versions of all inputs, those of
    retune and of the packages (`software`), and the `machine`."""

    model_config = ConfigDict(frozen=True)

    run_id: str
    run_name: str
    recipe: Recipe
    pins: Pins
    software: dict[str, Any]
    machine: dict[str, Any]

    def tags(self) -> dict[str, str]:
        """Return the tags of a run that makes this one again."""
        return {REPLAY_OF: self.run_id}

    def held_to(self, pins: Pins) -> Pins:
        """Return the pins of the run, if the inputs of today, `pins`, are the same.

        Raises NotTheSame, with a line for each that is not.
        """
        then, now = self.pins.model_dump(), pins.model_dump()
        lines = [
            f"{SETTINGS.get(name, name)}: the run had {_short(getattr(self.pins, name))}, what is "
            f"there now is {_short(getattr(pins, name))}"
            for name in then
            if name not in OF_THE_DAY and then[name] and then[name] != now[name]
        ]
        if lines:
            raise NotTheSame(
                "\n".join(
                    [f"{self.run_name} cannot be replayed: its inputs are others by now", *lines]
                )
                + "\nPut back what was there, or run the recipe anew with `retune run`."
            )
        update = {name: None for name in OF_THE_DAY[1:] if name in then}
        return self.pins.model_copy(update=update)

    @cached_property
    def made(self) -> Made:
        return made(self.run_id)


def recorded(run_id: str) -> Recorded:
    """Return what MLflow keeps of the run `run_id`. Raises NotReplayable."""
    run = client().get_run(run_id)
    name = run.info.run_name or run_id
    with TemporaryDirectory(prefix="retune-replay-") as folder:
        there = {file.path for file in artifacts(run_id, FOLDER)}
        missing = {f"{FOLDER}/{file}" for file in ("recipe.resolved.yaml", "pins.json")} - there
        if missing:
            raise NotReplayable(
                f"{name} cannot be replayed: MLflow has no {' and no '.join(sorted(missing))} of it; "
                f"runs have these since retune notes where they come from, and one that ended before "
                f"its inputs were known has none"
            )
        path = Path(client().download_artifacts(run_id, FOLDER, folder))
        settings = yaml.safe_load((path / "recipe.resolved.yaml").read_text(encoding="utf-8"))
        return Recorded(
            run_id=run_id,
            run_name=name,
            recipe=Recipe.parse(settings, f"the recipe of {name}"),
            pins=Pins.model_validate_json((path / "pins.json").read_text(encoding="utf-8")),
            software=_json(path / "software.json"),
            machine=_json(path / "machine.json"),
        )


def replayable(run_id: str) -> Recorded:
    """Return what MLflow keeps of a run that can be made again, and compared with what it was.

    Raises NotReplayable for any other, and says what to do instead.
    """
    run = client().get_run(run_id)
    name, tags = run.info.run_name or run_id, run.data.tags
    if of := tags.get(REPLAY_OF):
        raise NotReplayable(f"{name} is a replay itself: replay the run that it is of, {of}")
    if CALIBRATION in tags:
        raise NotReplayable(
            f"{name} is a calibration, of several trainings: `retune calibrate` makes another one"
        )
    if run.info.status == "RUNNING":
        raise NotReplayable(
            f"{name} is at work, or lost its process: wait for its end, or run its recipe again, which "
            f"goes on where it was"
        )
    if TRAINED not in tags:
        raise NotReplayable(
            f"{name} cannot be replayed: it ended before anything was trained"
            + (f" ({_first_line(tags[ERROR])})" if tags.get(ERROR) else "")
            + ", and there is nothing to compare with; run its recipe again with `retune run`"
        )
    return recorded(run_id)


def made(run_id: str) -> Made:
    """Return what came of a run and of its children, one for each GGUF file."""
    run = client().get_run(run_id)
    condition = f"tags.`mlflow.parentRunId` = '{run_id}'"
    children = client().search_runs([run.info.experiment_id], condition, max_results=1000)
    measures: dict[str, float] = {}
    files: dict[str, str] = {}
    for one, prefix in ((run, ""), *((child, child.info.run_name or "") for child in children)):
        for metric, value in one.data.metrics.items():
            stage, _, name = metric.partition("/")
            if name.partition("/")[0] not in UNSTEADY and stage not in NOT_MADE:
                measures[f"{prefix or stage}/{name}"] = value
        files |= {
            f"{prefix or stage}/{name}": digest for stage, name, digest in _files(one.info.run_id)
        }
    return Made(measures, files)


def _files(run_id: str) -> Iterator[tuple[str, str, str]]:
    """Yield stage, name and sha256 of the large files that a run has logged."""
    for stage in (entry.path for entry in artifacts(run_id) if entry.is_dir):
        for entry in (download_json(run_id, f"{stage}/{MODELS}") or {"models": []})["models"]:
            yield stage, entry["uri"].rstrip("/").rpartition("/")[2], entry["sha256"]


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _first_line(text: str) -> str:
    return visible(text.partition("\n")[0].removesuffix(":"), 200)


def _short(pin: Any) -> str:
    """Return a version as people tell it apart; of several, each."""
    if isinstance(pin, list | tuple):
        return ", ".join(map(_short, pin)) or "nothing"
    if isinstance(pin, HarnessPin):
        return f"lm-eval {pin.harness}, {pin.version[:19]}"
    return str(pin)[:19] if pin else "nothing"
