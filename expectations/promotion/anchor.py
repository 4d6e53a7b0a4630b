"""The candidate on the rows that the champion was judged by, which its own dataset has no say in."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from expectations.data.masking import masked
from expectations.promotion.contest import PairedDifference, contest, within_noise
from expectations.promotion.demands import (
    GATE,
    amount,
    shows_more,
    signed,
    to_hold,
    told,
    unjudged,
    words,
    worse_slices,
)
from expectations.promotion.statistics import FEWEST
from expectations.verdicts import Verdict, severity
from retune.outcomes import CHAMPION, HELD_OUT, LOSS, TUNED, of_side, read_grades
from retune.questions import first_text
from retune.recipe import Promotion, Recipe
from retune.recipe.evaluation import ANCHOR
from retune.recipe.flaws import Severity

if TYPE_CHECKING:
    from retune.records import Anchored

T = TypeVar("T")
METRIC, OWN = f"{ANCHOR}/{LOSS}", f"{HELD_OUT}/{LOSS}"
SETTING, MARGINS = "promotion.anchor_waiver", "promotion.margins"
SHOWN = 3  # answers that changed
LONGEST = 60  # characters of a question or an answer in a verdict
# What happens where the recipe does not say; of all others it is critical.
LENIENT: Mapping[str, Severity] = {"anchor_waiver": "warning"}
FIX = (
    "where answers were corrected on purpose, or the task is another one: promote this version by hand "
    "(`retune promote`), or give the reason as promotion.anchor_waiver and run again"
)
FIX_MISSING = (
    "put back what is missing and run again; or begin a new anchor: promote this version by hand "
    "(`retune promote`), or give the reason as promotion.anchor_waiver"
)


def differences(
    anchored: "Anchored | None", rule: Promotion, noise: Mapping[str, float]
) -> tuple[PairedDifference, ...]:
    """Return the candidate's differences from the champion on the anchor, a family of their own: the
    whole, then its slices. Margin and calibrated noise are those of the held-out loss unless its own are
    named."""
    if anchored is None or anchored.missing:
        return ()
    grades = read_grades(anchored.outcomes)
    candidate, champion = of_side(grades, TUNED), of_side(grades, CHAMPION)
    return contest(candidate, champion, rule_of(rule), as_anchor(noise))


def rule_of(rule: Promotion) -> Promotion:
    """Return the rule by which the losses on the anchor are compared."""
    return rule.model_copy(update={"margins": as_anchor(rule.margins), "wins": ()})


def verdicts(
    found: Sequence[PairedDifference], anchored: "Anchored | None", opponent: str, recipe: Recipe
) -> Iterator[Verdict]:
    """Yield whether the candidate is no worse than the `opponent` on that one's rows, in all and by
    slice, and how many of these questions have another answer now. A waiver warns instead."""
    if anchored is None:
        return
    if waiver := recipe.promotion.anchor_waiver:
        yield _waived(waiver, found, opponent, recipe)
    elif anchored.missing:
        seen = f"it could not be measured: {anchored.missing}"
        yield unjudged("anchor", _expected(opponent), seen, recipe, fix=FIX_MISSING)
    else:
        yield from _no_worse(found, opponent, recipe)
    if anchored.metrics.get("questions"):
        yield _answers(anchored, opponent, recipe)


def passes(judged: Sequence[Verdict]) -> bool:
    """Tell whether a candidate was held to an anchor and met it.

    Too many changed answers are no reason where the recipe only warns of them: then nobody is asked.
    """
    demanded = [verdict for verdict in judged if verdict.name in ("anchor", "anchor_slice")]
    left_to_a_person = any(
        verdict.name == "anchor_answers" and not verdict.passed and verdict.severity == "critical"
        for verdict in judged
    )
    return bool(demanded) and all(one.passed for one in demanded) and not left_to_a_person


def gravity(recipe: Recipe, name: str) -> Severity:
    """Return what happens when an expectation of a candidate is not met."""
    return severity(recipe, GATE, name, LENIENT.get(name, "critical"))


def as_anchor(by_metric: Mapping[str, T]) -> dict[str, T]:
    """Return what is said by metric, with that of the held-out loss for the anchor's as well."""
    added = {
        name.replace(OWN, METRIC, 1): value
        for name, value in by_metric.items()
        if name == OWN or name.startswith(f"{OWN}@")
    }
    return {**added, **by_metric}


def _no_worse(
    found: Sequence[PairedDifference], opponent: str, recipe: Recipe
) -> Iterator[Verdict]:
    whole = next((one for one in found if not one.is_slice), None)
    if whole is None:
        seen = "no row was measured by both"
        yield unjudged("anchor", _expected(opponent), seen, recipe, fix=FIX)
        return
    expected = f"{_expected(opponent)}, within {amount(whole, _reach(whole, recipe.promotion))}"
    if whole.outcome != "worse" and not _holds(whole, recipe.promotion):
        rule = recipe.promotion
        seen = told(whole, to_hold(whole, rule, _reach(whole, rule)))
        yield unjudged("anchor", expected, seen, recipe, MARGINS, whole.margin, fix=FIX)
    else:
        yield Verdict(
            gate=GATE,
            name="anchor",
            expected=expected,
            seen=told(whole),
            limit=whole.margin,
            setting=MARGINS,
            severity=gravity(recipe, "anchor"),
            passed=whole.outcome != "worse",
            fix=FIX,
        )
    slices = [one for one in found if one.is_slice]
    if slices:
        yield _slices(slices, opponent, recipe)


def _reach(one: PairedDifference, rule: Promotion) -> float:
    """Return by how much the candidate may be worse: what counts as no difference, or what two trainings
    of one recipe differ by."""
    return max(one.margin, within_noise(one.noise, rule.alpha))


def _holds(one: PairedDifference, rule: Promotion) -> bool:
    """Tell whether a candidate is shown to be no worse. What seems no worse by a few rows is not enough
    here, as it is for other suites: they are the rows that a poisoned dataset has no say in."""
    return one.examples >= FEWEST and one.low >= -_reach(one, rule)


def _slices(slices: Sequence[PairedDifference], opponent: str, recipe: Recipe) -> Verdict:
    worse = worse_slices(
        slices,
        lambda one: (
            f"{100 * one.confidence:.3g}% interval {signed(one, one.low, '')} to "
            f"{signed(one, one.high, '')}; {one.examples} examples"
        ),
    )
    return Verdict(
        gate=GATE,
        name="anchor_slice",
        expected=f"no slice of the rows that the {opponent} was judged by on which the candidate is "
        f"shown to be worse",
        seen=worse or f"{len(slices)} slices, none of them worse",
        setting="promotion.slices",
        severity=gravity(recipe, "anchor_slice"),
        passed=not worse,
        fix=FIX,
    )


def _expected(opponent: str) -> str:
    return f"no worse than the {opponent} by {words(METRIC)}, on the rows that the champion was judged by"


def _waived(
    waiver: str, found: Sequence[PairedDifference], opponent: str, recipe: Recipe
) -> Verdict:
    whole = next((told(one) for one in found if not one.is_slice), "it was not measured")
    return Verdict(
        gate=GATE,
        name="anchor_waiver",
        expected=_expected(opponent),
        seen=f"waived: {waiver}; {whole}",
        setting=SETTING,
        severity=gravity(recipe, "anchor_waiver"),
        passed=False,
    )


def _answers(anchored: "Anchored", opponent: str, recipe: Recipe) -> Verdict:
    """Return how many of the champion's held-out questions the dataset answers otherwise now."""
    changed, questions = (int(anchored.metrics[name]) for name in ("changed_answers", "questions"))
    rule, setting = recipe.promotion, "promotion.max_changed_answers"
    limit = rule.max_changed_answers
    expected = (
        f"at most {100 * limit:g}% of the questions that the {opponent} was judged by have another "
        f"answer in the dataset by now, which is what a model is taught"
    )
    share = f"{changed:,} of {questions:,} ({changed / questions:.1%})"
    seen = f"{share} have another answer in the dataset now"
    seen += f": {'; '.join(_changed(anchored))}" if changed else ""
    if not rule.anchor_waiver and shows_more(changed, questions, limit, rule.alpha):
        # Poisoned, corrected or written anew: rows alone do not tell, so a person is to say.
        return unjudged("anchor_answers", expected, seen, recipe, setting, limit, fix=FIX)
    return Verdict(
        gate=GATE,
        name="anchor_answers",
        expected=expected,
        seen=seen,
        limit=limit,
        setting=setting,
        severity=gravity(recipe, "anchor_answers"),
        passed=True,  # a waiver warns by a verdict of its own
    )


def _changed(anchored: "Anchored") -> list[str]:
    """Return some of the changed answers, masked."""
    import polars as pl

    rows = pl.read_parquet(anchored.rows).filter(pl.col("now").is_not_null()).head(SHOWN)
    # As it was written: in lower case, as a key, many a secret looks like none.
    rows = rows.with_columns(question=first_text())
    columns = [masked(rows[name]).to_list() for name in ("question", "answered", "now")]
    return [
        f"{_short(question)}: {_short(before)} → {_short(now)}"
        for question, before, now in zip(*columns, strict=True)
    ]


def _short(text: str) -> str:
    plain = " ".join(text.split())
    return plain if len(plain) <= LONGEST else f"{plain[:LONGEST]}…"
