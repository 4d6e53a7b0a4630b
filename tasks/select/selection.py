"""Which weights an adapter that was trained on 4-bit ones is put on: those, or the 16-bit originals."""

import math
from collections.abc import Mapping, Sequence

from retune.records import Onto
from retune.row_losses import RowLoss

ROUNDING = 1e-9
STANDARD_ERRORS = 2.0  # below that, two losses are taken to be equal
# From what was trained, in nats per token: what 4 bits themselves cost a small model (SmolLM2-135M 0.17)
# is below, another model above.
FARTHEST = 0.5
LEAST_SAME_TOP = 0.7


def preferred(losses: Mapping[str, Sequence[RowLoss]], comparison: Mapping[str, float]) -> Onto:
    """Return the weights on which the adapter does better, by its loss on the same rows.

    It often does better on the 16-bit ones, though these are not what it was trained on: with
    SmolLM2-135M a perplexity of 6.84 against 7.13. Those that it was trained on are kept where the
    losses differ by no more than their noise (STANDARD_ERRORS of the mean difference), and
    where the `comparison` says that on the 16-bit ones it is not what was trained any more.
    """
    sound = (
        comparison["kl_divergence"] <= FARTHEST and comparison["same_top_token"] >= LEAST_SAME_TOP
    )
    better = advantage(losses["16bit"], losses["trained"]) > STANDARD_ERRORS
    return "16bit" if sound and better else "trained"


def advantage(one: Sequence[RowLoss], other: Sequence[RowLoss]) -> float:
    """Return by how many standard errors the first one's loss per token is lower, the rows in pairs.

    The error is that of a ratio, nats over tokens. 0 where it is not known: of a single row, or with a
    loss that is no number.
    """
    pairs = [
        (theirs.nats - own.nats, own.tokens)
        for own, theirs in zip(one, other, strict=True)
        if own.tokens
    ]
    if len(pairs) < 2 or not all(math.isfinite(nats) for nats, _ in pairs):
        return 0.0
    tokens = sum(count for _, count in pairs)
    mean = sum(nats for nats, _ in pairs) / tokens
    squares = sum((nats - mean * count) ** 2 for nats, count in pairs)
    error = math.sqrt(squares * len(pairs) / (len(pairs) - 1)) / tokens
    if error <= ROUNDING * abs(mean):
        return math.copysign(math.inf, mean) if mean else 0.0
    return mean / error
