"""What determines the outputs of screen and validate: which rows are sound, no limit of the gate."""

from typing import Any

from retune.outputs import Step
from retune.recipe import Recipe
from retune.recipe.flaws import FLAWS
from retune.records import Pins

# Read by the judge alone.
LIMITS = {
    *("tolerances", "severities", "drift", "profile", "reference"),
    *("min_rows", "max_quarantined_share", "max_source_share"),
    *("max_ignored_columns", "max_ignored_keys"),
    *("score_mean_min", "score_mean_max", "score_quantiles_min", "score_threshold"),
    *("max_below_threshold_share", "min_distinct_scores"),
    *("max_score_share", "max_unit_score_share"),
}
# What screen does not look at.
SCORES = {
    *("score_required", "score_min", "score_max", "keep_score_min", "keep_top_share"),
    *("classifier", "quarantine_rows"),
}
# How the classifier runs, and the limits on its agreement with what is stored.
CLASSIFIER = {"batch_tokens", "min_agreement", "min_correlation"}


def screen(recipe: Recipe, pins: Pins, rows: Step) -> dict[str, Any]:
    """Return the settings and inputs of screen."""
    return {
        "rows": rows.fingerprint,
        "model": pins.model,
        "chat_tokens": recipe.model.chat_tokens,
        "trust_remote_code": recipe.model.trust_remote_code,
        "prompts": recipe.evaluation.prompts,
        "benchmarks": pins.benchmarks,
        "cases": pins.cases,
        "quarantines": [flaw for flaw in FLAWS if recipe.validation.quarantines(flaw)],
        **recipe.validation.model_dump(include={"profile": {"enabled"}}),
        **recipe.validation.model_dump(exclude=LIMITS | SCORES),
    }


def validate(recipe: Recipe, pins: Pins, screened: Step) -> dict[str, Any]:
    """Return the settings and inputs of validate."""
    scores = recipe.validation.model_dump(include=SCORES)
    scores["classifier"] = recipe.validation.classifier.model_dump(exclude=CLASSIFIER)
    if pins.classifier:  # a commit represents whatever it was named by
        scores["classifier"] |= {"revision": None, "pin": pins.classifier}
    return {"screened": screened.fingerprint, **scores}
