"""What determines the outputs of conform and parity."""

from typing import Any

from retune.llamacpp import locate
from retune.outputs import Step
from retune.recipe import Recipe
from retune.records import Pins


def conform(recipe: Recipe, pins: Pins) -> dict[str, Any]:
    """Return the settings and inputs of conform."""
    model = recipe.model
    return {
        "model": pins.model,
        "chat_tokens": model.chat_tokens,
        "trust_remote_code": model.trust_remote_code,
        "train_on": recipe.training.train_on,
        "llama.cpp": locate().root.name if recipe.makes_gguf else None,
    }


def parity(recipe: Recipe, conformance: Step, chats: Step) -> dict[str, Any]:
    """Return the settings and inputs of parity."""
    return {
        "conform": conformance.fingerprint,
        "chats": chats.fingerprint,
        "prompts": recipe.evaluation.prompts,
    }
