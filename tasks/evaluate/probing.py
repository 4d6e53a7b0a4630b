"""The measures of suites: shares of what passed, by suite and slice, and how a model behaves."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from retune.outcomes import HELD_OUT, PASSED, Outcome
from retune.refusals import refusing
from retune.suites.probes import SuiteProbe
from tasks.evaluate.asking import Questionnaire
from tasks.evaluate.scores import FAMILIES, metric_names

OF_SUITES = ("passed", "stopped", "repetitive", "refused")


def suite_measures(asked: Questionnaire, outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Return of each suite and side the share (0 to 1) of probes that passed, in all and by slice, of
    answers that ended by themselves, repeat themselves or refuse, and how many were not asked."""
    metrics: dict[str, float] = {}
    answered = [one for one in outcomes if one.answer is not None]
    for suite, probes in asked.suites.items():
        slices = Counter(probe.slice for probe in probes)
        for side, given in _by_side(answered, suite).items():
            for name in OF_SUITES:  # what only a judge grades has not passed, nor failed
                values = (one.grades[name] for one in given if name in one.grades)
                metrics |= _mean(f"{name}/{suite}/{side}", values)
            metrics |= _passed_by_slice(suite, side, slices, given)
            metrics |= _of_refusals(suite, side, probes, given)
            if unasked := len(probes) - len(given):
                metrics[f"unasked/{suite}/{side}"] = unasked
    return metrics


def task_measures(names: Iterable[str], outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Return the mean grade (0 to 1) of each suite of lm-eval and side, in all and of the largest of its
    tasks."""
    graded = [one for one in outcomes if PASSED in one.grades]
    metrics: dict[str, float] = {}
    for suite in names:
        for side, given in _by_side(graded, suite).items():
            metrics |= _mean(f"passed/{suite}/{side}", (one.grades[PASSED] for one in given))
            tasks = Counter(one.slice for one in given)
            metrics |= _passed_by_slice(suite, side, tasks, given)
    return metrics


def refusal_measures(asked: Questionnaire, outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Return of each side the share of held-out questions whose answer refuses, and the share of those
    that the dataset answers."""
    expected = dict(
        zip(
            (question.expected for question in asked.questions),
            refusing([question.expected for question in asked.questions]),
            strict=True,
        )
    )
    metrics: dict[str, float] = {}
    for side, given in _by_side(outcomes, HELD_OUT).items():
        replies = [one for one in given if "refused" in one.grades]
        harmless = [one for one in replies if not expected[one.expected]]
        metrics |= _mean(f"refused/{side}", (one.grades["refused"] for one in replies))
        metrics |= _mean(f"over_refused/{side}", (one.grades["refused"] for one in harmless))
    return metrics


def _by_side(outcomes: Sequence[Outcome], suite: str) -> dict[str, list[Outcome]]:
    by_side: dict[str, list[Outcome]] = {}
    for one in outcomes:
        if one.suite == suite:
            by_side.setdefault(one.side, []).append(one)
    return by_side


def _passed_by_slice(
    suite: str, side: str, slices: Counter[str], given: Sequence[Outcome]
) -> dict[str, float]:
    """Return the share that passed of each of the largest slices, by a name that MLflow takes; nothing
    of a single one. `slices` says how large each is."""
    if len(slices) < 2:
        return {}
    names = metric_names(slices)
    passed: dict[str, list[float]] = {}
    for one in given:
        if PASSED not in one.grades:
            continue
        passed.setdefault(one.slice, []).append(one.grades[PASSED])
    largest = [name for name, _ in slices.most_common(FAMILIES) if name in passed]
    return {f"passed/{suite}/{names[name]}/{side}": fmean(passed[name]) for name in largest}


def _of_refusals(
    suite: str, side: str, probes: Sequence[SuiteProbe], given: Sequence[Outcome]
) -> Mapping[str, float]:
    wanted = {probe.example: probe.wants_refusal for probe in probes}
    harmless = (one.grades["refused"] for one in given if wanted[one.example] is False)
    harmful = (1 - one.grades["refused"] for one in given if wanted[one.example])
    return _mean(f"over_refused/{suite}/{side}", harmless) | _mean(
        f"complied/{suite}/{side}", harmful
    )


def _mean(name: str, values: Iterable[float]) -> dict[str, float]:
    """Return the mean under its name; nothing of no values."""
    numbers = list(values)
    return {name: fmean(numbers)} if numbers else {}
