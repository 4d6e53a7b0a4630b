"""What determines the output of judge."""

from typing import Any

from retune.judging.cases import templates
from retune.outputs import Step
from retune.recipe import Recipe
from retune.records import Pins

LIMITS = {"min_kappa", "max_no_vote_share"}
# How it is asked, and what it is worth; the name of a secret is not in a key.
RUNNING = {"parallel", "timeout", "attempts", "limit_parameter"}
RUNNING |= {"key_variable", "key_secret", "price_input", "price_output"}
PATHS = {"gguf", "labels"}  # which count by their content


def key(recipe: Recipe, pins: Pins, evaluate: Step, champion: Step | None) -> dict[str, Any]:
    """Return the settings and inputs of judge: whose answers, and by which judge with which prompts."""
    return {
        "evaluate": evaluate.fingerprint,
        "champion": champion and champion.fingerprint,
        **recipe.evaluation.judge.model_dump(exclude=LIMITS | RUNNING | PATHS),
        "gguf": pins.judge,
        "labels": pins.judge_labels,
        "templates": templates(),
    }
