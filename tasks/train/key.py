"""What determines train's output."""

from typing import Any

from retune.outputs import Step
from retune.recipe import Recipe
from retune.records import Pins

# How it runs, what it may cost and when it stops, not what comes out.
RUNNING = {
    *("batch_size", "gradient_accumulation", "gradient_checkpointing", "memory", "processes"),
    *("logging_steps", "checkpoint_steps", "checkpoint_minutes", "max_loss_rise"),
    *("max_gradient_norm", "price_per_hour", "max_gpu_hours", "max_cost"),
}


def key(recipe: Recipe, pins: Pins, chats: Step) -> dict[str, Any]:
    """Return the settings and inputs of train."""
    training = recipe.training
    # What was made before there was such a setting counts.
    exact = set() if training.fp8 else {"fp8"}
    return {
        "chats": chats.fingerprint,
        "model": {"pin": pins.model, **recipe.model.model_dump(exclude={"base", "revision"})},
        "effective_batch": training.batch_size * training.gradient_accumulation,
        **training.model_dump(exclude=RUNNING | exact),
    }
