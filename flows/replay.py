"""`retune replay`: a run made once more, from what MLflow keeps of it, and held against what it was.

The stages are made anew in a folder of their own, the runs stand in an experiment of their own, and a
replay neither registers, promotes nor publishes anything: it answers one question, whether the run can
be made again.
"""

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

from prefect import flow
from pydantic import BaseModel

from flows.recorded import Made, Recorded, recorded, replayable
from flows.summary import Grid
from retune.calibration import stored_noise
from retune.files import digest
from retune.home import home, mark, remove
from retune.machine import this_machine
from retune.made_with import is_module
from retune.measures import measure, title
from retune.outcomes import HELD_OUT, TUNED
from retune.recipe import Recipe
from retune.version import installed, this_version

SUFFIX = ".replays"  # of the experiment of a recipe's replays
ADAPTER = "train/adapter"
NOISE_FACTOR = 2  # standard deviations between runs of one recipe, within which two are equal

Outcome = Literal["identical", "equal", "different", "unknown"]


class Replay(BaseModel):
    """How a run came out when it was made again, as the run `run_id`.

    `identical`: the adapter is the same, byte by byte. Else `equal` if every measure is within the
    noise of the recipe, `different` if one is not, and `unknown` where the noise was never measured.
    """

    of: str
    run_id: str
    outcome: Outcome
    sentence: str
    grids: list[Grid]


class EnvironmentChange(NamedTuple):
    """A thing of the environment that is another than it was."""

    subject: str
    then: str
    now: str


def deviations(run: Recorded) -> list[EnvironmentChange]:
    """Return what of this environment is not as it was: retune, packages, machine."""
    version, machine = this_version(), this_machine()._asdict()
    recorded_packages = run.software.get("packages", {}).items()
    packages = {name: number for name, number in recorded_packages if not is_module(name)}
    then = {
        "retune": run.software.get("number"),
        "retune's commit": run.software.get("commit"),
    } | packages
    now = {"retune": version.number, "retune's commit": version.commit}
    now |= {name: installed(name) for name in packages}
    then |= {f"machine: {name}": value for name, value in run.machine.items()}
    now |= {f"machine: {name}": machine.get(name) for name in run.machine}
    return [
        EnvironmentChange(subject, _text(value), _text(now.get(subject)))
        for subject, value in then.items()
        # JSON knows no tuples.
        if _text(value) != _text(now.get(subject))
    ]


@flow(name="replay", flow_run_name="replay of {run.run_name}")
def replay_run(run: Recorded, recipe: Recipe) -> str:
    """Run the line on the inputs of `run` and return the id of the new MLflow run."""
    from flows.retrain import run_line

    return run_line(recipe, run).run_id


def replay(run_id: str) -> Replay:
    """Make the run `run_id` again and compare, by the noise that was calibrated for its recipe.

    Raises NotReplayable, NotTheSame, and as a run does.
    """
    run = replayable(run_id)
    noise = measured_noise(stored_noise(run.recipe, run.pins))
    with everything_anew(run):
        new = replay_run(run, settings(run.recipe))
    again = recorded(new)
    outcome, sentence = compared(run.made, again.made, noise)
    grids = [_environment(deviations(run)), _files(run.made, again.made)]
    grids.append(_measures(run.made, again.made, noise))
    return Replay(of=run_id, run_id=new, outcome=outcome, sentence=sentence, grids=grids)


def measured_noise(calibrated: Mapping[str, float]) -> dict[str, float]:
    """Return calibrated noise (by suite and scorer: `held_out/loss`) by the measures of a run.

    Both are means of the same examples by the tuned model; one that occurs twice counts once in the
    first. Of nothing else, such as the loss of training or what a GGUF file does, is a noise known.
    """
    noise = {}
    for name, value in calibrated.items():
        suite, _, scorer = name.rpartition("/")
        of_suite = "" if suite == HELD_OUT else f"/{suite}"
        noise[f"evaluate/{scorer}{of_suite}/{TUNED}"] = value
    return noise


def settings(recipe: Recipe) -> Recipe:
    """Return the recipe of a replay: nothing leaves this machine, and its runs stand apart."""
    tracking = {"experiment": (recipe.tracking.experiment or recipe.name) + SUFFIX}
    return recipe.model_copy(
        update={
            "publishing": recipe.publishing.model_copy(update={"enabled": False}),
            "tracking": recipe.tracking.model_copy(update=tracking),
        }
    )


@contextmanager
def everything_anew(run: Recorded) -> Iterator[Path]:
    """Give the stages an empty folder within the block; it stays if the block fails, so that the same
    replay goes on there, and is removed otherwise."""
    folder = mark(home() / "replays") / digest([run.run_id, this_version()])
    before = os.environ.get("RETUNE_WORK")
    os.environ["RETUNE_WORK"] = str(folder)
    try:
        yield folder
    finally:
        if before is None:
            del os.environ["RETUNE_WORK"]
        else:
            os.environ["RETUNE_WORK"] = before
    remove(folder)


def compared(then: Made, now: Made, noise: Mapping[str, float]) -> tuple[Outcome, str]:
    """Return whether two runs made the same, and a sentence that says so.

    Raises nothing for what one of them lacks: that is a difference.
    """
    lacking = sorted(then.measures.keys() - now.measures.keys())
    if lacking:
        return "different", f"the replay has no {', '.join(map(_title, lacking))}"
    if then.files.get(ADAPTER) and then.files.get(ADAPTER) == now.files.get(ADAPTER):
        others = [name for name, of_file in then.files.items() if now.files.get(name) != of_file]
        rest = "and so is every file made of it" if not others else _and_not(others)
        return "identical", f"the adapter is the same, byte by byte, {rest}"
    changed = {
        name: abs(value - now.measures[name])
        for name, value in then.measures.items()
        if not _same(value, now.measures[name])
    }
    beyond = [
        name
        for name, difference in changed.items()
        # `not <=`: what is not a number is never within.
        if name in noise and not difference <= NOISE_FACTOR * noise[name]
    ]
    if beyond:
        return "different", (
            f"another adapter, and beyond {NOISE_FACTOR} standard deviations of the recipe's noise: "
            f"{', '.join(map(_title, beyond))}"
        )
    unknown = sorted(changed.keys() - noise.keys())
    if unknown and len(unknown) == len(changed):
        return "unknown", (
            f"another adapter; {len(changed)} of {len(then.measures)} measures differ, and whether "
            f"that is noise nobody measured: `retune calibrate` does"
        )
    rest = f"; of {len(unknown)} others that differ nobody knows the noise" if unknown else ""
    return "equal", (
        f"another adapter, whose measures are within {NOISE_FACTOR} standard deviations of the "
        f"recipe's noise, or the same{rest}"
    )


def _same(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))


def _and_not(names: list[str]) -> str:
    return f"but not {', '.join(sorted(names))}"


def _title(metric: str) -> str:
    """Return `train: loss at the end` for `train/final_loss`; the name itself if nobody titled it."""
    stage, _, name = metric.partition("/")
    try:
        return f"{stage}: {title(name)}"
    except KeyError:
        return metric


def _number(metric: str, value: float) -> str:
    try:
        return measure(metric.partition("/")[2]).number(value)
    except KeyError:
        return f"{value:g}"


def _environment(found: list[EnvironmentChange]) -> Grid:
    rows = [[one.subject, one.then, one.now] for one in found]
    rows = rows or [["nothing", "", ""]]
    return Grid(title="What differs in the environment", columns=["", "then", "now"], rows=rows)


def _files(then: Made, now: Made) -> Grid:
    rows = [
        [name, of_file[:12], "the same" if now.files.get(name) == of_file else "another"]
        for name, of_file in then.files.items()
    ]
    return Grid(title="Files", columns=["", "sha256", "the replay's"], rows=rows)


def _measures(then: Made, now: Made, noise: Mapping[str, float]) -> Grid:
    rows = [
        [
            _title(name),
            _number(name, value),
            _number(name, other),
            f"{NOISE_FACTOR * noise[name]:.3g}" if name in noise else "",
        ]
        for name, value in then.measures.items()
        if (other := now.measures.get(name)) is not None and not _same(value, other)
    ]
    rows = rows or [[f"none of {len(then.measures)}", "", "", ""]]
    head = ["", "then", "replayed", f"{NOISE_FACTOR}σ"]
    return Grid(title="Measures that differ", columns=head, rows=rows)


def _text(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)
