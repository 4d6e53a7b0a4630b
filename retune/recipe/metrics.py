"""The metrics that `promotion` names, held against what `evaluation` grades.

A metric that nobody grades is known before anything is trained: a required win by it would promote
nothing, and a margin of it would say nothing, silently.
"""

from retune.recipe.evaluation import ANCHOR, INCIDENTS, Evaluation
from retune.recipe.promotion import Promotion
from retune.recipe.section import shown

OF_ANSWERS = ("stopped", "repetitive", "refused")
OF_HELD_OUT = ("loss", "exact_match", *OF_ANSWERS)  # scorers of the suite of the held-out rows
OF_PROBES = ("passed", *OF_ANSWERS)  # scorers of the others
OF_TASKS = ("passed",)  # scorers of lm-eval's: what its metric says
PREFERRED = "preferred"
OF_JUDGE = ("judge", PREFERRED)  # those that an LLM judge grades by, if there is one
NO_DIRECTION = ("refused",)  # better in neither direction: nobody can win by it


def mistake(promotion: Promotion, evaluation: Evaluation) -> str | None:
    """Return what is wrong with the first metric in `promotion` that nobody would grade, None if there is
    none."""
    suites, tasks = evaluation.suite_names, evaluation.task_names
    for metric in promotion.wins:
        if wrong := _unknown(metric, suites, tasks) or _ungraded(metric, evaluation):
            return f"promotion.wins: {shown(metric)}: {wrong}"
        if _scorer(metric) in NO_DIRECTION:
            return (
                f"promotion.wins: {shown(metric)}: it is better in neither direction; use another"
            )
    for metric in promotion.margins:
        if wrong := _unknown(metric, (*suites, ANCHOR), tasks):
            return f"promotion.margins: {shown(metric)}: {wrong}"
    incidents = (INCIDENTS,) if evaluation.incidents else ()
    for metric in promotion.floors:
        known = (*suites, *incidents)
        if wrong := _unknown(metric, known, tasks) or _ungraded(metric, evaluation):
            return f"promotion.floors: {shown(metric)}: {wrong}"
    return None


def _unknown(metric: str, suites: tuple[str, ...], tasks: tuple[str, ...]) -> str | None:
    suite, scorer = _suite(metric), _scorer(metric)
    if suite and suite not in suites:
        return f"{shown(suite)} is no suite that is asked; use {', '.join(suites)}"
    known = dict.fromkeys(
        {
            "": (*OF_HELD_OUT, *OF_PROBES, *OF_JUDGE),
            "held_out": (*OF_HELD_OUT, PREFERRED),
            ANCHOR: ("loss",),
            **dict.fromkeys(tasks, OF_TASKS),
        }.get(suite, (*OF_PROBES, *OF_JUDGE))
    )
    if scorer not in known:
        return f"no answer is graded by {shown(scorer)}; use {', '.join(known)}"
    return None


def _ungraded(metric: str, evaluation: Evaluation) -> str | None:
    suite, scorer = _suite(metric), _scorer(metric)
    if scorer not in OF_JUDGE:
        return None
    if not evaluation.judge.enabled:
        return (
            "only an LLM judge grades by it; set evaluation.judge.url or evaluation.judge.gguf, or use "
            "another measure"
        )
    if scorer == PREFERRED and suite not in evaluation.judge.compare:
        return f"the judge does not compare {suite}; add it to evaluation.judge.compare"
    return None


def _suite(metric: str) -> str:
    return metric.partition("@")[0].rpartition("/")[0]


def _scorer(metric: str) -> str:
    return metric.partition("@")[0].rpartition("/")[2]
