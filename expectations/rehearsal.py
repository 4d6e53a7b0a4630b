"""The judge of rehearse: a tiny model of the base's architecture comes to the end of the line."""

from expectations.verdicts import Judgement, Verdict, severity
from retune.recipe import Recipe
from retune.records import Rehearsal

GATE = "rehearse"
EXPECTED = {
    "train": "a tiny model of this architecture can be trained and saved",
    "merge": "what was trained of it can be merged, and is then the same",
    "convert": "llama.cpp's converter takes what was merged",
    "compute": "llama.cpp computes what the model does",
}


def judgement(rehearsal: Rehearsal, recipe: Recipe) -> Judgement:
    """Return a verdict on each part of the line that was tried."""
    failed = rehearsal.parts[-1:] if rehearsal.failure else ()
    verdicts = [
        Verdict(
            gate=GATE,
            name=part,
            expected=EXPECTED[part],
            seen=rehearsal.failure if part in failed else "it does",
            severity=severity(recipe, GATE, part),
            passed=part not in failed,
            fix=f"Choose another model.base or training.target_modules; or, if only the tiny model is to "
            f"blame, gates.severities={{{GATE}.{part}: warning}}.",
        )
        for part in rehearsal.parts
    ]
    advice = "A training would have ended like this, after all its steps."
    return Judgement(GATE, f"tiny twin of {recipe.model.base}", verdicts, advice=advice)
