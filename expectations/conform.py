"""The judge of conform: tokenizer, chat template and their GGUF fit each other, the adapter the model."""

import re
from collections.abc import Sequence

from expectations.verdicts import Judgement, Verdict, at_least, severity
from retune.architecture import AUTO, Architecture, Layer, Names, kinds, weights
from retune.escaping import visible
from retune.recipe import Recipe, RecipeError
from retune.recipe.gates import EXPECTATIONS
from retune.records import Check, Conformance

GATE = "conform"
SETTING = "training.target_modules"
# Less is what names of another architecture hit: Llama's reach 31 % of Phi-3, whose projections are
# fused. Who means it so says so.
MIN_TRAINED_SHARE = 0.5
QUOTED = 40  # characters of a quoted text, where little room is enough


def judgement(conformance: Conformance, recipe: Recipe) -> Judgement:
    """Return the verdicts on what was checked. Raises RecipeError for a severity of no check."""
    report = conformance.report()
    verdicts = [verdict(check, recipe) for check in report.checks]
    if recipe.training.method == "lora":
        verdicts += adapter(report.architecture, recipe)
    names = {*(verdict.name for verdict in verdicts), *EXPECTATIONS[GATE]}
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
    seen = "\n".join(map(visible, check.seen.splitlines()))
    grade = recipe.gates.severities.get(f"{GATE}.{name}", check.severity)
    return Verdict(
        gate=GATE,
        name=name,
        expected=visible(check.name),
        seen=brief(seen) if grade == "info" else seen,
        severity=grade,
        passed=check.passed,
        fix=check.fix[:1].upper() + check.fix[1:] + "." * bool(check.fix),
    )


def brief(seen: str) -> str:
    """Return what was seen with each quoted text cut to QUOTED characters: of what blocks nothing; the
    whole of it is in the check's own report."""
    long = rf"'((?:[^'\\]|\\.){{{QUOTED}}})(?:[^'\\]|\\.)+'"
    return re.sub(long, r"'\1…'", seen)


def adapter(model: Architecture, recipe: Recipe) -> list[Verdict]:
    """Return the verdicts on what `training.target_modules` selects of the model."""
    return [_known(model, recipe), _trained_share(model, recipe), _untrained(model, recipe)]


def _known(model: Architecture, recipe: Recipe) -> Verdict:
    names = recipe.training.target_modules
    unknown = model.unknown(names)
    return Verdict(
        gate=GATE,
        name="target_modules",
        expected="every name is one of layers that can get an adapter",
        seen=f"none is named {', '.join(unknown)}" if unknown else _listed(names),
        setting=SETTING,
        severity=severity(recipe, GATE, "target_modules", "warning"),
        passed=not unknown,
        fix=f"Take {', '.join(unknown)} out of {SETTING}, or set it to auto.",
    )


def _trained_share(model: Architecture, recipe: Recipe) -> Verdict:
    names, key = recipe.training.target_modules, f"{GATE}.trained_share"
    share = model.share(names)
    everything = ", ".join(kinds(model.all_linear())) or "none that can get an adapter"
    return Verdict(
        gate=GATE,
        name="trained_share",
        expected=f"the adapter reaches at least {MIN_TRAINED_SHARE:.0%} of the decoder's linear weights",
        seen=f"{share:.1%} by {_listed(names)}; the model has {everything}",
        limit=MIN_TRAINED_SHARE,
        setting=SETTING,
        severity=severity(recipe, GATE, "trained_share"),
        passed=bool(model.all_linear()) and at_least(share, MIN_TRAINED_SHARE),
        fix=f"Set {SETTING}=auto for all of them, or, if so little is meant, gates.severities="
        f"{{{key}: warning}}.",
    )


def _untrained(model: Architecture, recipe: Recipe) -> Verdict:
    names = recipe.training.target_modules
    left = model.untrained(names)
    share = weights(left) / (weights(model.layers) or 1)
    return Verdict(
        gate=GATE,
        name="untrained_layers",
        expected="every matrix of the decoder gets an adapter",
        seen=f"{share:.1%} of the weights get none: {_by_reason(left)}" if left else "all do",
        setting=SETTING,
        severity=severity(recipe, GATE, "untrained_layers", "warning"),
        passed=not left,
        fix="They stay as they are in the base"
        + ("." if names == AUTO else f"; {SETTING}=auto trains what can be."),
    )


def _listed(names: Names) -> str:
    return names if names == AUTO else ", ".join(names)


def _by_reason(layers: Sequence[Layer]) -> str:
    """Return the kinds of layers, the reason behind those that have one."""
    by_reason: dict[str, list[Layer]] = {}
    for layer in layers:
        by_reason.setdefault(layer.barred, []).append(layer)
    return "; ".join(
        ", ".join(kinds(of_reason)) + (f" ({reason})" if reason else "")
        for reason, of_reason in by_reason.items()
    )
