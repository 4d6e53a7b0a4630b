"""The losses of held-out rows, one by one and together; torch is imported where it is used."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

from retune.labels import IGNORED, token_rows
from retune.loaders import load_tokenizer
from retune.recipe import Recipe
from retune.records import Chats


class RowLoss(NamedTuple):
    """The sum of the negative log-likelihoods (nats) of `tokens` tokens of one row."""

    nats: float
    tokens: int


class HeldOut(BaseModel):
    """The first `rows` conversations of `path` (Parquet), each cut to `max_length` tokens; their loss
    is of what `train_on` and the rows let be learned, as the `tokenizer` folder says. At most
    `batch_size` of them are computed together."""

    path: Path
    tokenizer: Path
    rows: int
    max_length: int
    train_on: str
    batch_size: int | None

    def losses(self, model: Any) -> list[RowLoss]:
        """Return the loss of each row by `model`."""
        tokenizer = load_tokenizer(self.tokenizer)
        rows = list(token_rows(self.path, self.rows, self.max_length))
        labels = [row.labels(tokenizer, self.train_on) for row in rows]
        together = self.batch_size or len(rows) or 1
        ids = [row.ids for row in rows]
        return row_losses(model, ids, labels, tokenizer.pad_token_id, together)


def row_losses(
    model: Any, rows: list[list[int]], labels: list[list[int]], pad: int, batch_size: int
) -> list[RowLoss]:
    """Return the negative log-likelihoods (nats) of the tokens of each row that have a label."""
    import torch
    from torch.nn.functional import cross_entropy

    from retune.models import batches, padded

    sums: dict[int, RowLoss] = {}
    with torch.inference_mode():
        for numbers in batches([len(row) for row in rows], batch_size):
            batch = padded([rows[number] for number in numbers], pad)
            logits = model(**batch, use_cache=False).logits
            # Row by row: 32-bit logits of a whole batch can be larger than the model.
            for row_logits, number in zip(logits, numbers, strict=True):
                targets = torch.tensor(labels[number][1:], device=logits.device)
                scores = row_logits[: len(targets)].float()
                nats = cross_entropy(scores, targets, reduction="sum", ignore_index=IGNORED).item()
                sums[number] = RowLoss(nats, int((targets != IGNORED).sum()))
    return [sums[number] for number in range(len(rows))]


def held_out(chats: Chats, recipe: Recipe) -> HeldOut:
    """Return the rows that the loss is taken of."""
    return HeldOut(
        path=chats.held_out,
        tokenizer=chats.tokenizer,
        rows=recipe.evaluation.loss_rows,
        max_length=recipe.model.max_length,
        train_on=recipe.training.train_on,
        batch_size=recipe.evaluation.batch_size,
    )


def likelihoods(rows: Mapping[str, Sequence[RowLoss]]) -> dict[str, float]:
    """Return each side's loss (nats per token) and perplexity.

    Without tokens a loss is not a number; a perplexity that overflows is infinite.
    """
    metrics = {f"loss/{side}": mean_loss(of_side) for side, of_side in rows.items()}
    return metrics | {
        f"perplexity/{side}": math.exp(loss) if loss < 700 else math.inf
        for side, loss in ((side, metrics[f"loss/{side}"]) for side in rows)
    }


def mean_loss(rows: Sequence[RowLoss]) -> float:
    """Return the loss of all rows (nats per token); without tokens it is not a number."""
    tokens = sum(row.tokens for row in rows)
    return sum(row.nats for row in rows) / tokens if tokens else math.nan
