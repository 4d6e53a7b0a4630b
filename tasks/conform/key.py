"""What determines conform's output."""

from typing import Any

from retune.llamacpp import locate
from retune.recipe import Recipe
from retune.records import Pins


def key(recipe: Recipe, pins: Pins) -> dict[str, Any]:
    """Return the settings and inputs of conform."""
    model = recipe.model
    return {
        "model": pins.model,
        "chat_tokens": model.chat_tokens,
        "trust_remote_code": model.trust_remote_code,
        "llama.cpp": locate().root.name if recipe.makes_gguf else None,
    }
