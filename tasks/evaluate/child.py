"""The child process of evaluate: held-out loss and answers of the base and the tuned model.

With an adapter both are one model in memory: it is merged into the base when that was asked; after full
fine-tuning they are loaded one after the other. The champion is one model by itself.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from retune.child import emit, main
from retune.loaders import admit, load_tokenizer
from retune.merged import load_merged, load_unpacked, merge
from retune.models import is_adapter, load_base, load_plain, release_memory
from retune.original import Original
from retune.recipe import Model
from retune.row_losses import HeldOut
from retune.suites.harness import AskedTask
from tasks.evaluate.answering import AskedPrompt, answer
from tasks.evaluate.scores import SIDES


class EvaluateJob(BaseModel):
    """`adapter` is the folder that train wrote, on `model` at `revision`, and put on its `original` if
    there is one; `held_out` is what the loss is taken of, None if of nothing; at most `batch_size` of
    the `prompts` are answered together, and the answers kept in `log`, with what came of the `tasks` of
    lm-eval. `alone` names the side that is asked instead of both."""

    held_out: HeldOut | None
    tokenizer: Path
    adapter: Path
    model: Model
    revision: str | None
    original: Original | None
    batch_size: int | None
    prompts: list[AskedPrompt]
    log: Path
    tasks: list[AskedTask] = []
    alone: str | None = None


def evaluate(job: EvaluateJob) -> dict[str, Any]:
    """Return for each side: `losses` (a RowLoss for each row, if they are taken) and `answers` (one per
    prompt, None for what could not be asked)."""
    admit(job.model, job.revision)
    tokenizer = load_tokenizer(job.tokenizer)
    losses, answers = {}, {}
    for side, model in sides(job):
        emit("state", text=f"measuring and asking the {side} model")
        if job.held_out:
            losses[side] = job.held_out.losses(model)
        replies = answer(model, tokenizer, job.prompts, job.batch_size, side, job.log)
        answers[side] = [reply and reply.model_dump() for reply in replies]
        if job.tasks:
            from tasks.evaluate import harness

            tokens = load_tokenizer(job.tokenizer)  # lm-eval's, which may set its padding
            harness.ask(model, tokens, job.tasks, job.batch_size, side, job.log)
        del model  # before the next one is loaded
        release_memory()
    return {"losses": losses, "answers": answers}


def sides(job: EvaluateJob) -> Iterator[tuple[str, Any]]:
    """Yield the base and the tuned model by name, or the one that is asked `alone`; no two are in memory
    if the caller lets go of each."""
    base, tuned = SIDES
    if job.alone:
        yield job.alone, load_merged(job.model, job.revision, job.adapter, job.original)
    elif is_adapter(job.adapter):
        model = load_unpacked(job.model, job.revision, job.adapter, job.original)
        yield base, model
        yield tuned, merge(model, job.adapter)
    else:
        yield base, load_base(job.model, job.revision, job.tokenizer)
        yield tuned, load_plain(job.adapter)


if __name__ == "__main__":
    main(EvaluateJob, evaluate)
