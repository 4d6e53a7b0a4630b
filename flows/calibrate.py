"""`retune calibrate`: trains cheap replicas of a recipe, and keeps how far they are apart.

fetch ─▶ validate ─▶ format ─▶ (train ─▶ evaluate) × replicas
"""

from datetime import datetime
from typing import Any

from prefect import flow, get_run_logger, runtime

from expectations import formatting
from expectations import training as training_course
from expectations.data import judgement as data
from expectations.promotion.demands import words
from flows.judging import Judge, judging
from flows.plan import Plan, make_plan
from flows.recorded import CALIBRATION
from flows.summary import Grid
from retune.calibration import means, noise_of, store_noise
from retune.gpu_lock import gpus_alone
from retune.home import keep_private
from retune.machine import require_machine
from retune.measures import measure
from retune.outcomes import TUNED, scorer_of
from retune.recipe import Recipe
from retune.records import Chats, Pins
from retune.tracking import Run, client, start_run
from tasks.evaluate.task import evaluate
from tasks.fetch.task import fetch, pin_inputs
from tasks.format.task import format_chats
from tasks.select.task import select
from tasks.train.task import train
from tasks.validate.task import screen, validate


@flow(name="calibrate")
def calibrate_noise(parameters: dict[str, Any], replicas: int, share: float) -> dict[str, float]:
    """Train replicas that differ by seed and order alone, each a `share` of the recipe's training, and
    return the standard deviation of the difference of two by metric.

    Data and replicas that were made before are reused. Raises Rejected as the line does.
    """
    keep_private()
    recipe = Recipe.model_validate(parameters)
    require_machine(recipe)
    pins = pin_inputs(recipe)
    started = f"calibration {datetime.now():%Y-%m-%d %H:%M:%S}"
    tags = {
        "prefect.flow_run_id": str(runtime.flow_run.id),
        "retune.calibration_share": f"{share:g}",
        CALIBRATION: str(replicas),
    }
    with (
        gpus_alone(recipe, get_run_logger().info),
        start_run(recipe, started, tags) as run,
        judging(run) as judge,
    ):
        chats = _chats(recipe, pins, make_plan(recipe, pins), run, judge)
        measured = [
            _measured(replica(recipe, number, share), chats, pins, run, judge)
            for number in range(1, replicas + 1)
        ]
        noise = noise_of(measured)
        run.log_texts({"noise.md": grid(noise, replicas, share).markdown()}, "calibration")
        store_noise(run, recipe, pins, noise)
    return noise


def replica(recipe: Recipe, number: int, share: float) -> Recipe:
    """Return a recipe that differs by the seed, of the adapter and of the rows' order, and trains for a
    `share` of the steps."""
    config = recipe.training
    steps = config.max_steps and max(1, round(share * config.max_steps))
    changes = {"seed": config.seed + number, "epochs": share * config.epochs, "max_steps": steps}
    return recipe.model_copy(update={"training": config.model_copy(update=changes)})


def _chats(recipe: Recipe, pins: Pins, plan: Plan, run: Run, judge: Judge) -> Chats:
    rows = run.log(fetch(recipe, pins, plan.fetch))
    reference = data.reference(recipe, pins)
    screened = run.log(screen(rows, recipe, pins, plan.screen))
    judge(screened, data.screening(screened, recipe, reference))
    sound = run.log(validate(rows, screened, recipe, pins, plan.validation))
    judge(sound, data.judgement(sound, recipe, reference))
    chats = run.log(format_chats(sound, recipe, pins, plan.formatting))
    judge(chats, formatting.judgement(chats, recipe))
    return chats


def _measured(recipe: Recipe, chats: Chats, pins: Pins, run: Run, judge: Judge) -> dict[str, float]:
    """Train and evaluate one replica in a child run; return the means of what it did."""
    plan, child = make_plan(recipe, pins), run.new_child(f"seed {recipe.training.seed}")
    status = "FAILED"
    try:
        adapter = child.log(train(chats, child, recipe, pins, plan.train))
        judge(adapter, training_course.judgement(adapter))
        selection = None
        if plan.select:
            selection = child.log(select(adapter, chats, recipe, pins, plan.select))
        scores = child.log(evaluate(adapter, selection, chats, recipe, pins, plan.evaluate))
        status = "FINISHED"
    finally:
        client().set_terminated(child.id, status)
    get_run_logger().info("replica with seed %d is measured", recipe.training.seed)
    return means(scores.outcomes, TUNED)


def grid(noise: dict[str, float], replicas: int, share: float) -> Grid:
    """Return what was measured as a table."""
    rows = [
        [
            words(name),
            measure(scorer_of(name)).text(value),
            measure(scorer_of(name)).text(2 * value),
        ]
        for name, value in noise.items()
    ]
    heading = f"Noise of training, by {replicas} replicas of {share:.0%} of the training"
    return Grid(title=heading, columns=["", "σ", "2σ"], rows=rows)
