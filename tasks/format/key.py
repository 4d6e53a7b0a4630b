"""What determines format's output."""

from typing import Any

from retune.outputs import Step
from retune.recipe import Recipe
from retune.records import Pins

LIMITS = {
    *("max_truncated_share", "max_unlearned_share", "max_refused_share", "max_altered_share"),
}


def key(recipe: Recipe, pins: Pins, rows: Step) -> dict[str, Any]:
    """Return the settings and inputs of format."""
    model = recipe.model
    return {
        "rows": rows.fingerprint,
        "model": pins.model,
        "chat_tokens": model.chat_tokens,
        "trust_remote_code": model.trust_remote_code,
        "max_length": model.max_length,
        "train_on": recipe.training.train_on,
        **recipe.formatting.model_dump(exclude=LIMITS),
    }
