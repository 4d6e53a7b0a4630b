"""The judge of conform: tokenizer, chat template and their GGUF fit each other."""

import re

from expectations.verdicts import Judgement, Verdict
from retune.escaping import visible
from retune.recipe import Recipe, RecipeError
from retune.records import Check, Conformance

GATE = "conform"


def judgement(conformance: Conformance, recipe: Recipe) -> Judgement:
    """Return the verdicts on what was checked. Raises RecipeError for a severity of no check."""
    report = conformance.report()
    verdicts = [verdict(check, recipe) for check in report.checks]
    names = {verdict.name for verdict in verdicts}
    for key in recipe.gates.severities:
        gate, _, name = key.partition(".")
        if gate == GATE and name not in names:
            raise RecipeError(
                f"gates.severities: {key} names no check of this base model; there are: "
                f"{', '.join(sorted(names))}"
            )
    subject = f"{visible(report.base)} as base model"
    extent = f"{len(verdicts)} checks"
    advice = "It cannot be trained and served as the recipe wants."
    return Judgement(GATE, subject, verdicts, extent=extent, advice=advice)


def verdict(check: Check, recipe: Recipe) -> Verdict:
    """Return a check as a verdict, what the base's files say as what it is: no line of ours."""
    name = re.sub(r"\W+", "_", check.name.lower()).strip("_")
    return Verdict(
        gate=GATE,
        name=name,
        expected=visible(check.name),
        seen="\n".join(map(visible, check.seen.splitlines())),
        severity=recipe.gates.severities.get(f"{GATE}.{name}", check.severity),
        passed=check.passed,
        fix=check.fix[:1].upper() + check.fix[1:] + "." * bool(check.fix),
    )
