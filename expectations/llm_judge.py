"""The judge of the LLM judge: whether what it says of answers counts."""

from expectations.verdicts import Judgement, Verdict, at_least, at_most, severity
from retune.measures import measure
from retune.recipe import Recipe
from retune.records import JudgedAnswers

GATE = "judge"
KINDS = {"rubric": "single answers", "comparison": "comparisons"}


def judgement(judged: JudgedAnswers, recipe: Recipe) -> Judgement:
    """Return the verdicts on an LLM judge: it agrees with people, and its replies can be read."""
    verdicts = [_agreement(kind, judged, recipe) for kind in KINDS if _is_asked(kind, judged)]
    return Judgement(GATE, "LLM judge", (*verdicts, _no_votes(judged, recipe)))


def counted(judged: JudgedAnswers, recipe: Recipe) -> bool:
    """Tell whether its grades count: no verdict speaks against it, however grave that is to the run."""
    return not any(verdict.failed for verdict in judgement(judged, recipe).verdicts)


def _is_asked(kind: str, judged: JudgedAnswers) -> bool:
    scorer = {"rubric": "judge", "comparison": "preferred"}[kind]
    return any(
        name in (f"kappa/{kind}",) or name.startswith(f"{scorer}/") for name in judged.metrics
    )


def _agreement(kind: str, judged: JudgedAnswers, recipe: Recipe) -> Verdict:
    limit, kappa = recipe.evaluation.judge.min_kappa, judged.metrics.get(f"kappa/{kind}")
    if kappa is None:
        seen, passed = "no labels of this kind (evaluation.judge.labels)", False
    else:
        low, high = (judged.metrics[f"kappa_{end}/{kind}"] for end in ("low", "high"))
        labels = judged.metrics[f"labels/{kind}"]
        seen = f"κ = {kappa:.2f} (95% interval {low:.2f} to {high:.2f}) over {labels:,.0f} labels"
        passed = at_least(kappa, limit)
    return Verdict(
        gate=GATE,
        name="agreement",
        expected=f"agreement of the judge with people on {KINDS[kind]} (Cohen's κ) of at least {limit:g}",
        seen=seen if passed or kappa is None else f"{seen}; its grades do not count",
        limit=limit,
        setting="evaluation.judge.min_kappa",
        severity=severity(recipe, GATE, "agreement", "warning"),
        passed=passed,
        judged=kappa is not None,
        fix="The judge does not agree with people: make the rubrics or evaluation.judge.criteria "
        "clearer, or take another judge.",
    )


def _no_votes(judged: JudgedAnswers, recipe: Recipe) -> Verdict:
    limit, share = recipe.evaluation.judge.max_no_vote_share, judged.metrics["no_vote_share"]
    passed = at_most(share, limit)
    seen = f"{measure('no_vote_share').text(share)} of {judged.metrics['votes']:,.0f} votes"
    return Verdict(
        gate=GATE,
        name="no_votes",
        expected=f"at most {100 * limit:g}% of the judge's votes say nothing",
        seen=seen if passed else f"{seen}; its grades do not count",
        limit=limit,
        setting="evaluation.judge.max_no_vote_share",
        severity=severity(recipe, GATE, "no_votes", "warning"),
        passed=passed,
        fix="The judge's replies cannot be read: raise evaluation.judge.max_tokens, or take another "
        "judge.",
    )
