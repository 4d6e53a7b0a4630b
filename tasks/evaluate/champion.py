"""The champion on the examples of this run: asked again, or as its own run recorded it."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from retune.building import OutputBusy
from retune.conditions import Conditions, changed
from retune.disk_space import NoSpaceLeft
from retune.errors import RetuneError
from retune.outcomes import ARTIFACT, CHAMPION, TUNED, of_side, write_table
from retune.outputs import here
from retune.recipe import Recipe
from retune.records import Champion, Chats, Pins
from retune.row_losses import held_out
from retune.sources import unchanged
from retune.store.place import StoreUnreachable
from retune.suites.harness import asked_tasks
from retune.temporary import temporary_folder
from tasks.evaluate.answering import AskedPrompt
from tasks.evaluate.child import EvaluateJob

if TYPE_CHECKING:
    import polars as pl


class ChampionGone(RetuneError):
    """The champion cannot be asked; the message is a sentence that says why."""


def weights(champion: Champion) -> Path:
    """Return the folder with what its training wrote."""
    return here(f"train/{champion.adapter}") / "adapter"


def champion_job(
    champion: Champion,
    prompts: list[AskedPrompt],
    chats: Chats,
    recipe: Recipe,
    pins: Pins,
    log: Path,
) -> EvaluateJob:
    """Return the child's job. The champion is asked with its own tokenizer and template, and its loss is
    taken if these are the tokens of the held-out rows. Raises ChampionGone."""
    folder = weights(champion)
    if not folder.is_dir():
        raise ChampionGone(f"its weights are not in {folder} any more")
    own = {"base": champion.base, "load_in_4bit": champion.load_in_4bit}
    is_comparable = same_tokens(folder, chats.tokenizer)
    return EvaluateJob(
        held_out=held_out(chats, recipe) if is_comparable else None,
        tokenizer=folder,
        adapter=folder,
        model=recipe.model.model_copy(update=own),
        revision=pins.commit(champion.model_pin),
        original=champion.original,
        batch_size=recipe.evaluation.batch_size,
        prompts=prompts,
        log=log,
        tasks=asked_tasks(recipe, pins.tasks),
        alone=CHAMPION,
    )


def same_tokens(one: Path, other: Path) -> bool:
    """Tell whether two folders hold tokenizers that make the same tokens of a text."""

    def tokenizer(folder: Path) -> object:
        try:
            told = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return folder
        return {name: part for name, part in told.items() if name not in ("padding", "truncation")}

    return tokenizer(one) == tokenizer(other)


@contextmanager
def asking(champion: Champion) -> Iterator[None]:
    """Hold its base to what it was trained on, and say of what a person could mend, that the champion
    cannot be asked: ChampionGone. A full disk is not the champion's, nor is a store that is away."""
    try:
        with unchanged(champion.base, champion.model_pin, "the champion's base"):
            yield
    except (NoSpaceLeft, OutputBusy, StoreUnreachable, ChampionGone):
        raise
    except RetuneError as error:
        raise ChampionGone(str(error)) from error


def take_recorded(
    champion: Champion,
    examples: set[str],
    tasks: tuple[str, ...],
    today: Callable[[str], Conditions],
    path: Path,
) -> int:
    """Write what the champion's own run recorded of these examples, and return of how many.

    Of the suites of lm-eval, `tasks`, all is taken: what they ask is the same by their conditions.

    Only what was measured under the conditions of `today`, by suite: answers of another engine, device
    or template are not those that the candidate's are compared with. Raises ChampionGone where there is
    nothing left.
    """
    import polars as pl
    from mlflow.exceptions import MlflowException

    from retune.tracking import download

    with temporary_folder() as folder:
        try:
            file = download(champion.run_id, ARTIFACT, folder)
        except (MlflowException, OSError):  # the run itself is gone
            file = None
        if file is None:
            raise ChampionGone(f"its run {champion.run_id} has no {ARTIFACT}")
        table = pl.read_parquet(file)
    mine = of_side(table, TUNED).filter(
        pl.col("example").is_in(list(examples)) | pl.col("suite").is_in(tasks)
    )
    if mine.is_empty():
        raise ChampionGone(f"its run {champion.run_id} was evaluated by other examples")
    mine, others = _as_today(mine, today)
    if mine.is_empty():
        raise ChampionGone(
            f"what its run {champion.run_id} recorded was measured in another way: {others}"
        )
    write_table(path, mine.with_columns(side=pl.lit(CHAMPION)))
    return mine["example"].n_unique()


def _as_today(
    recorded: "pl.DataFrame", today: Callable[[str], Conditions]
) -> "tuple[pl.DataFrame, str]":
    """Return the outcomes that were measured as today, and in words why one of the others was not."""
    import polars as pl

    if "conditions" not in recorded.columns:  # of before they were noted
        recorded = recorded.with_columns(conditions=pl.lit(""))
    kinds = recorded.select("suite", "conditions").unique(maintain_order=True)
    reasons = [changed(then, today(suite)) for suite, then in kinds.iter_rows()]
    same = kinds.with_columns(reason=pl.Series(reasons, dtype=pl.String)).filter(reason="")
    return recorded.join(same, on=["suite", "conditions"], how="semi"), next(
        filter(None, reasons), ""
    )
