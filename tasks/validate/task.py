"""validate: the data gate. A bad dataset stops here, before anything costly starts."""

from prefect import get_run_logger

from expectations.data.messages import Rules
from retune.chat import chatml_tokenizer
from retune.control_texts import control_tokens
from retune.loaders import admit
from retune.recipe import Recipe
from retune.records import Pins, Rows, Screened
from retune.sources import resolved, unchanged
from retune.workspace import Step, building
from tasks.stage import stage
from tasks.validate.prompts import evaluation_prompts
from tasks.validate.screening import QUARANTINE, SCORES, counts, settle
from tasks.validate.screening import screen as screen_rows


@stage(name="screen")
def screen(rows: Rows, recipe: Recipe, pins: Pins, step: Step) -> Screened:
    """Look at every row by itself and against the others; no score is asked for yet."""
    with building(step) as build:
        prompts = evaluation_prompts(recipe, pins.benchmarks)
        table = screen_rows(rows.path, _rules(recipe, pins, prompts), build.path)
        return build.finish(Screened, metrics=counts(table), files=(QUARANTINE,))


@stage(name="validate")
def validate(rows: Rows, screened: Screened, recipe: Recipe, pins: Pins, step: Step) -> Rows:
    """Ask for the scores that are missing; hand on the sound rows, the others go to quarantine."""
    import polars as pl

    logger = get_run_logger()
    with building(step) as build:
        table = pl.read_parquet(screened.features)
        rules = _rules(resolved(recipe, pins), pins)
        settled = settle(rows.path, table, rules, build.path, logger.info)
        metrics = counts(settled.table)
        if settled.agreement is not None:
            metrics["score_agreement"] = settled.agreement
        params = {"classifier": settled.answers.version} if settled.answers else {}
        logger.info(
            "%s of %s rows are sound, %s in quarantine, %s dropped by the filter",
            *(f"{metrics[name]:,.0f}" for name in ("accepted", "rows", "quarantined", "filtered")),
        )
        return build.finish(Rows, metrics=metrics, params=params, files=(QUARANTINE, SCORES))


def _rules(recipe: Recipe, pins: Pins, prompts: tuple[str, ...] = ()) -> Rules:
    model, commit = recipe.model, pins.commit(pins.model)
    with unchanged(model.base, pins.model, "model.base"):
        admit(model, commit)
        tokenizer = chatml_tokenizer(model.base, commit, model.chat_tokens)
    return Rules(recipe.validation, control_tokens(tokenizer), prompts)
