"""validate: the data gate. A bad dataset stops here, before anything costly starts."""

from pathlib import Path

from prefect import get_run_logger

from expectations.data import repairs as record
from expectations.data.messages import Rules
from expectations.data.profile.looks import PROFILE, hand_on
from retune.building import building
from retune.child import run_child
from retune.outputs import Step
from retune.pinning import resolved
from retune.recipe import Recipe
from retune.records import Pins, Rows, Screened
from retune.sources import unchanged
from retune.suites.cases import cases
from tasks.stage import stage
from tasks.validate.prompts import evaluation_prompts
from tasks.validate.quarantine import QUARANTINE
from tasks.validate.repairs.repair import repair
from tasks.validate.repairs.trial import trials
from tasks.validate.screening import SCORES, counts, settle
from tasks.validate.screening import screen as screen_rows
from tasks.validate.spread import look_for
from tasks.validate.spread_scores import score_for
from tasks.validate.tokens_child import TokensJob

TOKENS = Path(__file__).with_name("tokens_child.py")


@stage(name="screen")
def screen(rows: Rows, recipe: Recipe, pins: Pins, step: Step) -> Screened:
    """Repair rows as the recipe says, and look at each by itself and against the others; no score is
    asked for yet."""
    with building(step) as build:
        prompts = evaluation_prompts(recipe, pins.benchmarks)
        asked = cases(recipe, pins.suites)
        rules = _rules(recipe, pins, build.path)._replace(prompts=prompts, cases=asked)
        path, applied = repair(rows.path, recipe.validation.repairs, build.path)
        table = screen_rows(path, rules, build.path, look_for(path, recipe))
        repairs = trials(path, table, rules, applied)
        record.write(repairs, build.path)
        metrics = counts(table) | repairs.metrics()
        return build.finish(Screened, metrics=metrics, files=(QUARANTINE,))


@stage(name="validate")
def validate(rows: Rows, screened: Screened, recipe: Recipe, pins: Pins, step: Step) -> Rows:
    """Ask for the scores that are missing; hand on the sound rows, the others go to quarantine."""
    import polars as pl

    logger = get_run_logger()
    with building(step) as build:
        table = pl.scan_parquet(screened.features)
        rules = _rules(resolved(recipe, pins), pins, build.path)
        path, folder = screened.rows(rows), screened.folder
        run = score_for(path, recipe)
        settled = settle(path, table, rules, build.path, logger.info, folder, run)
        hand_on(folder, build.path)
        repairs = record.read(folder)
        record.write(repairs, build.path)
        metrics = counts(settled.table) | repairs.metrics() | settled.metrics()
        params = {"classifier": settled.answers.version} if settled.answers else {}
        logger.info(
            "%s of %s rows are sound, %s in quarantine, %s dropped by the filter",
            *(f"{metrics[name]:,.0f}" for name in ("accepted", "rows", "quarantined", "filtered")),
        )
        return build.finish(
            Rows, metrics=metrics, params=params, files=(QUARANTINE, SCORES, PROFILE)
        )


def _rules(recipe: Recipe, pins: Pins, folder: Path) -> Rules:
    model, revision = recipe.model, pins.commit(pins.model)
    job = TokensJob(model=model, revision=revision)
    with unchanged(model.base, pins.model, "model.base"):
        hub = revision is not None
        found = run_child(TOKENS, job, folder / "tokenizer.log", hub=hub, forked=True)
    return Rules(recipe.validation, tuple(found["control_tokens"]))
