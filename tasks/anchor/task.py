"""anchor: the candidate and the champion on the rows that the champion was judged by."""

from pathlib import Path
from typing import TYPE_CHECKING

from prefect import get_run_logger

from retune.anchors import FILE, AnchorGone, beside, measuring, recalled
from retune.bases import bases_unchanged, on_hub, selected
from retune.building import Build, building
from retune.child import run_child
from retune.disk_space import NoSpaceLeft
from retune.errors import RetuneError
from retune.outcomes import FILE as OUTCOMES
from retune.outcomes import write_outcomes
from retune.outputs import Step, here
from retune.recipe import Recipe
from retune.records import Adapter, Anchored, Champion, Chats, Pins, Selection
from retune.row_losses import HeldOut, RowLoss
from retune.sources import unchanged
from tasks.anchor.child import AnchorJob
from tasks.anchor.rows import (
    comparable,
    counted,
    is_recorded,
    mean_losses,
    measured_anew,
    of_both,
    outcomes,
    with_losses,
)
from tasks.stage import stage

if TYPE_CHECKING:
    import polars as pl

    from retune.anchors import Measuring

CHILD = Path(__file__).with_name("child.py")
MEASURED = "measured.parquet"  # the rows that a child reads
RECORDED, MEASURED_ANEW = "recorded", "measured"  # where the champion's losses come from


@stage(name="anchor")
def measure_anchor(
    adapter: Adapter,
    selection: Selection | None,
    champion: Champion,
    chats: Chats,
    recipe: Recipe,
    pins: Pins,
    step: Step,
) -> Anchored:
    """Take the losses of the tuned model on the champion's anchor, and those of the champion, unless they
    were recorded in the same way. Rows that the tuned model was trained on leave.

    Without an anchor the output is no finished one: the next run tries again.
    """
    by = measuring(recipe, chats.tokenizer)
    with building(step) as build, bases_unchanged(recipe, pins):
        try:
            rows = beside(recalled(champion, recipe.evaluation.loss_rows), chats)
            met, source = _champions(comparable(rows, by), by, champion, chats, recipe, pins, build)
        except AnchorGone as gone:
            get_run_logger().warning("the anchor of version %d: %s", champion.version, gone)
            anchored = build.finish(Anchored, missing=str(gone))
        else:
            job = AnchorJob(
                held_out=_held_out(met, chats, recipe, build),
                adapter=adapter.path,
                model=recipe.model,
                revision=pins.commit(pins.model),
                original=selected(selection, recipe, pins),
            )
            met = of_both(met, _losses(job, build, "tuned.log"))
            write_outcomes(build.path / OUTCOMES, outcomes(met))
            kept = ["loss", "tokens", "limits", "engine"]  # the salt and `behind` are the anchor's
            rows.drop(kept).join(
                met.select("asked", *kept, "candidate"),
                on="asked",
                how="left",
                maintain_order="left",
            ).write_parquet(build.path / FILE)
            metrics = {"rows": len(met), **counted(rows, by), **mean_losses(met)}
            params = {"version": str(champion.version), "source": source}
            anchored = build.finish(Anchored, metrics=metrics, params=params, files=(OUTCOMES,))
            get_run_logger().info(
                "on %s rows that version %d was judged by: loss %.4f against %.4f",
                *(f"{len(met):,}", champion.version),
                *(metrics["loss/tuned"], metrics["loss/champion"]),
            )
        build.is_final = not anchored.missing
    return anchored


def _champions(
    rows: "pl.DataFrame",
    by: "Measuring",
    champion: Champion,
    chats: Chats,
    recipe: Recipe,
    pins: Pins,
    build: Build,
) -> "tuple[pl.DataFrame, str]":
    """Return the rows with a loss of the champion's, and where these come from. Raises AnchorGone."""
    if is_recorded(rows, by):
        return rows, RECORDED
    try:
        job = _job_of(champion, _held_out(rows, chats, recipe, build), recipe, pins)
        with unchanged(champion.base, champion.model_pin, "the champion's base"):
            return measured_anew(rows, _losses(job, build, "champion.log"), by), MEASURED_ANEW
    except NoSpaceLeft:
        raise
    except RetuneError as error:
        known = with_losses(rows, by)
        if known.is_empty():
            raise AnchorGone(
                f"no loss of version {champion.version} was taken of these rows as losses are taken "
                f"now, and it cannot be measured: {error}"
            ) from error
        get_run_logger().warning("the champion (version %d): %s", champion.version, error)
        return known, RECORDED


def _job_of(champion: Champion, held_out: HeldOut, recipe: Recipe, pins: Pins) -> AnchorJob:
    folder = here(f"train/{champion.adapter}") / "adapter"
    if not folder.is_dir():
        raise AnchorGone(f"its weights are not in {folder} any more")
    own = {"base": champion.base, "load_in_4bit": champion.load_in_4bit}
    return AnchorJob(
        held_out=held_out,
        adapter=folder,
        model=recipe.model.model_copy(update=own),
        revision=pins.commit(champion.model_pin),
        original=champion.original,
    )


def _held_out(rows: "pl.DataFrame", chats: Chats, recipe: Recipe, build: Build) -> HeldOut:
    """Write the rows for a child, and return what it takes to measure them."""
    rows.select("input_ids", "unlearned").write_parquet(build.path / MEASURED)
    return HeldOut(
        path=build.path / MEASURED,
        tokenizer=chats.tokenizer,
        rows=len(rows),
        max_length=recipe.model.max_length,
        train_on=recipe.training.train_on,
        batch_size=recipe.evaluation.batch_size,
    )


def _losses(job: AnchorJob, build: Build, log: str) -> list[RowLoss]:
    hub = on_hub(job.revision, job.original)
    result = run_child(CHILD, job, build.path / log, hub=hub, forked=True)
    return [RowLoss(*row) for row in result["losses"]]
