"""What determines publish's output."""

from collections.abc import Sequence
from typing import Any

from retune.outputs import Step
from retune.recipe import Recipe


def key(recipe: Recipe, parts: Sequence[Step]) -> dict[str, Any]:
    """Return the settings and inputs of publish; `parts` are the outputs that ship."""
    return {"parts": [part.fingerprint for part in parts], **recipe.publishing.model_dump()}
