"""What determines the outputs of convert, calibrate and quantize."""

from typing import Any

from retune.llamacpp import locate
from retune.outputs import Step
from retune.recipe import Recipe
from retune.recipe.methods import SOURCE


def convert(recipe: Recipe, merged: Step) -> dict[str, Any]:
    """Return the settings and inputs of convert, whose measures are those of every file."""
    config = recipe.quantization
    return {
        "merged": merged.fingerprint,
        "method": SOURCE,
        "name": recipe.name,
        "llama.cpp": locate().root.name,
        "calibrates": config.calibrates,
        "max_new_tokens": recipe.evaluation.max_new_tokens,
        **config.model_dump(include={"context", "perplexity_rows", "answer_rows"}),
    }


def calibrate(recipe: Recipe, source: Step) -> dict[str, Any]:
    """Return the settings and inputs of calibrate."""
    return {"source": source.fingerprint, "rows": recipe.quantization.imatrix_rows}


def quantize(recipe: Recipe, source: Step, imatrix: Step, method: str) -> dict[str, Any]:
    """Return the settings and inputs of one quantization."""
    uses = recipe.quantization.uses_imatrix(method)
    return {
        "source": source.fingerprint,
        "imatrix": imatrix.fingerprint if uses else None,
        "method": method,
    }
