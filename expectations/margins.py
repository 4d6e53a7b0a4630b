"""How far a run was from its gates' limits, from what MLflow keeps of it: for whoever looks at how
things are going. It judges nothing."""

import json
from collections.abc import Mapping
from typing import NamedTuple

LOSS_RATIO = "evaluate/loss_ratio"  # no metric of its own
# By metric of a run, the setting that holds its limit; `min_…` or `max_…` says on which side.
LIMITS = {
    "validate/quarantined_share": "validation.max_quarantined_share",
    "format/truncated_share": "formatting.max_truncated_share",
    "format/unlearned_share": "formatting.max_unlearned_share",
    "format/refused_share": "formatting.max_refused_share",
    "parity/differing_rows": "quantization.max_differing_rows",
    LOSS_RATIO: "evaluation.max_loss_ratio",
    "merge/kl_divergence": "merging.max_kl_divergence",
    "merge/perplexity_ratio": "merging.max_perplexity_ratio",
    "merge/same_top_token": "merging.min_same_top_token",
}


class Margin(NamedTuple):
    """A measure beside its limit; `room` is how much of the way to the limit is left, 1 at the best
    value that there is, 0 at the limit, below 0 beyond it."""

    metric: str
    value: float
    limit: float
    setting: str
    room: float


def margins(metrics: Mapping[str, float], params: Mapping[str, str]) -> list[Margin]:
    """Return the margins of a run by its metrics and parameters, the narrowest first."""
    known = dict(metrics)
    base = known.get("evaluate/loss/base")
    if base and "evaluate/loss/tuned" in known:
        known[LOSS_RATIO] = known["evaluate/loss/tuned"] / base
    made = [
        Margin(metric, known[metric], limit, setting, _room(metric, known[metric], limit, setting))
        for metric, setting in LIMITS.items()
        if metric in known and (limit := _number(params.get(setting))) is not None
    ]
    return sorted(made, key=lambda margin: margin.room)


def _room(metric: str, value: float, limit: float, setting: str) -> float:
    least = 1.0 if metric.endswith("perplexity_ratio") else 0.0  # a model that lost nothing
    if setting.rpartition(".")[2].startswith("min_"):
        return (value - limit) / (1 - limit) if limit < 1 else value - limit
    return (limit - value) / (limit - least) if limit > least else limit - value


def _number(text: str | None) -> float | None:
    try:
        value = json.loads(text or "null")
    except ValueError:
        return None
    return float(value) if isinstance(value, int | float) else None
