"""How near one model is to another: the logits of both on held-out conversations.

For child processes; imports torch where it is used.
"""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from retune.models import device, padded, token_ids

if TYPE_CHECKING:
    import torch

CHECK_TOKENS = 512  # of each compared row: its logits wait on disk meanwhile


class Yardstick(BaseModel):
    """The first `rows` of `held_out` (Parquet), and the folder for the logits of the model that others
    are compared with."""

    held_out: Path
    rows: int
    logits: Path

    def token_ids(self) -> list[list[int]]:
        return token_ids(self.held_out, self.rows, CHECK_TOKENS)


def keep_logits(model: Any, yardstick: Yardstick) -> None:
    """Write the logits of each row, (tokens, vocabulary), to a file of its own."""
    import torch

    yardstick.logits.mkdir()
    for number, ids in enumerate(yardstick.token_ids()):
        torch.save(_logits(model, ids).cpu(), yardstick.logits / f"{number}.pt")


def measure(model: Any, yardstick: Yardstick) -> dict[str, float]:
    """Return how far `model` is from the one whose logits were kept, one row in memory at a time.

    `kl_divergence` is its mean from them (nats per token), `same_top_token` (0 to 1) the share of
    tokens for which both rank the same one first; `perplexity` is the model's own, and
    `perplexity_ratio` that over `perplexity/reference`, of the other.
    """
    import torch
    from torch.nn.functional import kl_div, nll_loss

    divergence, agreed, tokens = 0.0, 0, 0
    losses, targets = [0.0, 0.0], 0
    for number, ids in enumerate(yardstick.token_ids()):
        reference = torch.load(yardstick.logits / f"{number}.pt", weights_only=True)
        reference = reference.to(device()).float().log_softmax(-1)
        actual = _logits(model, ids).float().log_softmax(-1)
        divergence += kl_div(actual, reference, reduction="sum", log_target=True).item()
        agreed += (reference.argmax(-1) == actual.argmax(-1)).sum().item()
        tokens += len(ids)
        following = torch.tensor(ids[1:], device=actual.device)
        nats = [
            nll_loss(scores[:-1], following, reduction="sum").item()
            for scores in (actual, reference)
        ]
        losses = [total + of_row for total, of_row in zip(losses, nats, strict=True)]
        targets += len(following)
    perplexity, other = (math.exp(min(loss / targets, 700)) for loss in losses)
    return {
        "kl_divergence": divergence / tokens,
        "same_top_token": agreed / tokens,
        "perplexity": perplexity,
        "perplexity/reference": other,
        "perplexity_ratio": perplexity / other,
    }


def _logits(model: Any, ids: list[int]) -> "torch.Tensor":
    import torch

    with torch.inference_mode():
        return model(**padded([ids], pad=0), use_cache=False).logits[0]
