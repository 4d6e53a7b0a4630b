"""A child process of conform: what a base's tokenizer, template and architecture let us know."""

import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from retune.chat import in_chatml
from retune.child import emit, main
from retune.home import remove
from retune.loaders import admit, read_tokenizer
from retune.outline import outline
from retune.recipe import Model
from retune.templates import rendering
from tasks.conform.checks import (
    mergeable,
    reads_as_its_file,
    tokenizer_checks,
    without_recurrence,
)
from tasks.conform.tiny import random_model, save_tiny, save_twin

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TINY = "tiny"  # the event that the tiny model is there


class BaseJob(BaseModel):
    """`train_on` is the recipe's (see `retune.labels.labels_of`); `tiny` is where a tiny model with
    the base's architecture and the tokenizer that is trained with goes, None if there will be no GGUF; of
    an architecture that is refused by name none is made.
    `twin` is the folder for what a rehearsal takes, None for a base that brings code."""

    model: Model
    revision: str | None
    train_on: str
    tiny: Path | None
    twin: Path | None


def examine(job: BaseJob) -> dict[str, Any]:
    """Do what `_examine` does, with one process for all that is asked of the template."""
    with rendering():
        return _examine(job)


def _examine(job: BaseJob) -> dict[str, Any]:
    """Return the tokenizer's class, the checks and the architecture; say TINY on the way.

    Raises ChatFormatError for a base that cannot be brought into ChatML at all.
    """
    model, revision = job.model, job.revision
    admit(model, revision)
    with ThreadPoolExecutor(1) as pool:  # while the tokenizer is read
        drawing = pool.submit(_drawn, job)
        read, departure = read_tokenizer(model.base, revision)
    tokenizer = in_chatml(read, model.base, model.chat_tokens)
    layers = without_recurrence(model.base, revision)
    tiny = None
    if job.tiny and layers.passed:
        # One that could not be drawn is tried anew, to say why.
        drawn = None if drawing.exception() else drawing.result()
        tiny = save_tiny(model, revision, tokenizer, job.tiny, drawn)
        emit(TINY)
    checks = [
        reads_as_its_file(departure),
        *tokenizer_checks(tokenizer, model.chat_tokens, job.train_on),
    ]
    if job.tiny:
        checks += [mergeable(model.base, revision), layers]
    if job.twin:
        try:
            save_twin(model, revision, tokenizer, job.twin, tiny)
        except Exception:  # whatever an architecture has against being tiny: it is not rehearsed
            traceback.print_exc()
            remove(job.twin)
    return {
        "tokenizer": type(tokenizer).__name__,
        "checks": [check.model_dump() for check in checks],
        "architecture": outline(model.base, revision).model_dump(),
    }


def _drawn(job: BaseJob) -> "PreTrainedModel | None":
    """Return a tiny model if there will be one."""
    if not job.tiny or not without_recurrence(job.model.base, job.revision).passed:
        return None
    return random_model(job.model, job.revision)


if __name__ == "__main__":
    main(BaseJob, examine)
