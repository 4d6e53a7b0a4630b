"""What determines the output of anchor."""

from typing import Any

from retune.outputs import Step
from retune.recipe import Recipe
from retune.records import Champion


def key(
    recipe: Recipe, champion: Champion, adapter: Step, selection: Step | None, formatted: Step
) -> dict[str, Any]:
    """Return the settings and inputs of anchor: the weights of both, the rows that the champion was
    judged by, and those that the candidate learnt, which leave."""
    weights = champion.model_dump(mode="json", exclude={"version", "run_id", "anchor"})
    return {
        "adapter": adapter.fingerprint,
        "selection": selection and selection.fingerprint,
        "weights": weights,
        # Of a version of before they were kept, the rows are those of its run.
        "anchor": champion.anchor.sha256 if champion.anchor else champion.run_id,
        "formatted": formatted.fingerprint,
        "max_length": recipe.model.max_length,
        "train_on": recipe.training.train_on,
        "loss_rows": recipe.evaluation.loss_rows,
    }
