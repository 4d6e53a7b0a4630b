"""The child process of `retune suspects`: how each training row's gradient lies to what was lost.

A step of training on a row z changes the loss L of any text x by -η ∇L(z)·∇L(x): TracIn (Pruthi 2020),
of which LESS (Xia 2024) takes the cosine, on an adapter's gradients in a random projection, so that
short and long rows count alike. Of a lost example the model's own answer is wrong, and the other
side's right. So z did harm if its step

- lowers the loss of the wrong answer: ∇L(z)·∇L(wrong) > 0, or
- raises that of the right one:        ∇L(z)·∇L(right) < 0,

and the harm is its cosine with ∇L(wrong) - ∇L(right), each of length 1: one that was learned by heart
has hardly any gradient left, and would be drowned by the other. Where there is only a loss, which is of
the right text, it is the cosine with -∇L(right). **A positive score is suspect**, a negative one
speaks for the right answers. What is compared with is the mean of the lost examples' directions.

Gradients are of the loss of the assistant's turns (of what may be learned), whatever
`training.train_on` says: what was lost is an answer. Of all tokens most of a gradient is the question's,
above all once the answer is learned by heart; the poisoned twin of a lost prompt then looks like a row
that speaks for it (its cosine was -0.01, and rows of other questions came first).

Gradients are of the trained adapter alone, where training left it. It is a hint where to look, of
likeness and not of cause: a row may be like what was lost and right.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from flows.influence.gradients import RowGradients, unit
from retune.chat import END, encode
from retune.child import emit, main
from retune.errors import RetuneError
from retune.held_out import held_out_rows
from retune.labels import IGNORED, TokenRow, token_rows
from retune.loaders import admit, load_tokenizer
from retune.models import load_tuned, require_gpu_for_4bit
from retune.original import Original
from retune.outcomes import LOSS, example_name
from retune.recipe import Model
from retune.templates import Refusal
from retune.templates import outcomes as rendered

if TYPE_CHECKING:
    import torch

SEED, DIMENSIONS = 20201, 4096
ANSWERS = "responses"  # what gradients are of, see `retune.labels.labels_of`
SECONDS = 5.0  # between two words about the progress


class NothingToCompare(RetuneError):
    """No gradient is left of what was lost."""


class LostAnswer(BaseModel):
    """A question that was lost: its messages, the `right` answer of the other side, and the `wrong`
    one, which ended by itself if it `stopped`."""

    messages: list[dict[str, Any]]
    right: str
    wrong: str
    stopped: bool


class InfluenceJob(BaseModel):
    """`adapter` on `model` at `revision`, or on its `original`. `losses` names the held-out rows whose
    loss rose, `answers` are the lost ones. `rows` are the numbers of the training rows to compare,
    `train` and `held_out` the files of format."""

    adapter: Path
    model: Model
    revision: str | None
    original: Original | None
    tokenizer: Path
    train: Path
    held_out: Path
    rows: list[int]
    losses: list[str]
    answers: list[LostAnswer]


class Texts:
    """A job's rows as tokens and labels, each cut to the length that is trained on."""

    def __init__(self, job: InfluenceJob) -> None:
        self._job = job
        self.tokenizer = load_tokenizer(job.tokenizer)

    def trained(self) -> Iterator[tuple[int, list[int], list[int]]]:
        """Yield number, tokens and labels of each training row that is compared."""
        import polars as pl

        names = pl.read_parquet_schema(self._job.train).keys() & {"row", "input_ids", "unlearned"}
        rows = pl.scan_parquet(self._job.train).filter(pl.col("row").is_in(self._job.rows))
        for row in rows.select(sorted(names)).collect().iter_rows(named=True):
            ids = row["input_ids"][: self._job.model.max_length]
            yield row["row"], ids, self._labels(TokenRow(ids, row.get("unlearned") or []))

    def held_out(self) -> Iterator[tuple[list[int], list[int]]]:
        """Yield tokens and labels of the held-out rows whose loss rose."""
        wanted, path = set(self._job.losses), self._job.held_out
        if not wanted:
            return
        rows = held_out_rows(path, 1 << 31)
        tokens = token_rows(path, len(rows), self._job.model.max_length)
        for (_, messages), row in zip(rows, tokens, strict=True):
            name = example_name(messages, LOSS)
            if name in wanted:
                wanted.discard(name)  # once, however often it occurs
                yield row.ids, self._labels(row)

    def answers(
        self,
    ) -> Iterator[tuple[tuple[list[int], list[int]], tuple[list[int], list[int]]]]:
        """Yield tokens and labels of the wrong and of the right answer to each lost question; one that
        the template refuses is left out."""
        lost = self._job.answers
        prompts = rendered(
            self.tokenizer, [one.messages for one in lost], add_generation_prompt=True
        )
        for one, prompt in zip(lost, prompts, strict=True):
            if not isinstance(prompt, Refusal):
                ids = encode(self.tokenizer, [prompt])[0]
                yield (
                    self._answered(ids, one.wrong, one.stopped),
                    self._answered(ids, one.right, True),
                )

    def _answered(
        self, prompt: list[int], answer: str, stopped: bool
    ) -> tuple[list[int], list[int]]:
        said = self.tokenizer(answer, add_special_tokens=False)["input_ids"]
        said = [*said, self.tokenizer.convert_tokens_to_ids(END)] if stopped else list(said)
        length = self._job.model.max_length
        return [*prompt, *said][:length], [*[IGNORED] * len(prompt), *said][:length]

    def _labels(self, row: TokenRow) -> list[int]:
        return row.labels(self.tokenizer, ANSWERS)


def influence(job: InfluenceJob) -> dict[str, Any]:
    """Return `scores`, pairs of a row's number and its cosine (-1 to 1, positive: suspect), without
    rows that have no gradient, and `examples`, of how many lost ones the direction is the mean.

    Raises NothingToCompare, and MachineUnfit for 4-bit weights without a GPU.
    """
    admit(job.model, job.revision)
    if job.original is None:
        require_gpu_for_4bit(job.model)
    texts = Texts(job)
    emit("state", text="loading the model")
    model = load_tuned(job.model, job.revision, job.adapter, job.original)
    gradients = RowGradients(model, texts.tokenizer.pad_token_id, DIMENSIONS, SEED)
    emit("state", text="taking the gradients of what was lost")
    directions = list(_directions(texts, gradients))
    harm = unit(sum(directions)) if directions else None  # type: ignore[arg-type]
    if harm is None:
        raise NothingToCompare(
            f"no gradient is left of the {len(job.losses) + len(job.answers)} examples that were lost: "
            f"they have nothing to be learned within model.max_length={job.model.max_length}"
        )
    scores, told = [], 0.0
    for count, (number, ids, labels) in enumerate(texts.trained(), 1):
        gradient = gradients.unit(ids, labels)
        if gradient is not None:
            scores.append((number, round(float(gradient @ harm), 6)))
        if time.monotonic() - told >= SECONDS or count == len(job.rows):
            told = time.monotonic()
            emit("progress", done=count, total=len(job.rows))
    return {"scores": scores, "examples": len(directions)}


def _directions(texts: Texts, gradients: RowGradients) -> "Iterator[torch.Tensor]":
    """Yield for each lost example the direction, of length 1, in which a row's gradient does harm."""
    for ids, labels in texts.held_out():
        if (right := gradients.unit(ids, labels)) is not None:
            yield -right
    for wrong_row, right_row in texts.answers():
        wrong, right = gradients.unit(*wrong_row), gradients.unit(*right_row)
        if wrong is None or right is None:
            continue
        if (direction := unit(wrong - right)) is not None:
            yield direction


if __name__ == "__main__":
    main(InfluenceJob, influence)
