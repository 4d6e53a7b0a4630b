"""The judge of a candidate: shown to be better than the champion where that is asked, no worse elsewhere.

It is shown, or it does not become the champion: what is undecided promotes nothing, and is no fault of
the candidate either. `Judgement.failed` is what speaks against it, so that only harm rejects.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, NamedTuple

from expectations.promotion import anchor, demands, findings
from expectations.promotion.contest import PairedDifference, contest
from expectations.promotion.demands import GATE
from expectations.promotion.evidence import Case, Exhibit, markdown, write_case
from expectations.promotion.examples import names
from expectations.verdicts import Judgement, Verdict, severity
from retune.outcomes import BASE, CHAMPION, TUNED, of_side, read_grades
from retune.recipe import Promotion, Recipe
from retune.records import Anchored

if TYPE_CHECKING:
    import polars as pl

NO_NOISE: Mapping[str, float] = MappingProxyType({})
NOTHING_MORE = Exhibit()
Ruling = Literal["promote", "equivalent", "undecided", "rejected", "held"]
HELD = {
    "approve": "promotion.mode=approve: a person has to approve it",
    "never": "promotion.mode=never: it stays a challenger",
}


class Opponent(NamedTuple):
    """The champion that a candidate is compared with.

    `name` is what people call it ("champion, version 3"), `adapter` the fingerprint of its weights,
    `outcomes` the file of its outcomes (side `champion`), None where it could not be measured, for which
    `problem` is the reason.
    """

    name: str
    adapter: str
    outcomes: Path | None
    problem: str = ""


class Decision(NamedTuple):
    """What becomes of a candidate, and why.

    `outcome` is promote; held (it would be promoted, but `promotion.mode` leaves that to a person, or
    to nobody); equivalent (nothing to gain); undecided (too little evidence); rejected (worse somewhere).
    `next_step` is what a person would do now, "" if nobody said whom it is about; `compared` the
    telling differences in a sentence. `until` is when an answer of a person is due, None: none is asked.
    """

    outcome: Ruling
    reasons: tuple[str, ...]
    differences: tuple[PairedDifference, ...]
    judgement: Judgement
    next_step: str = ""
    compared: str = ""
    until: datetime | None = None


def decide(
    outcomes: Path,
    adapter: str,
    champion: Opponent | None,
    recipe: Recipe,
    noise: Mapping[str, float] = NO_NOISE,
    exhibit: Exhibit = NOTHING_MORE,
    anchored: Anchored | None = None,
) -> Decision:
    """Return what becomes of the candidate whose weights have the fingerprint `adapter`.

    `outcomes` is the file that evaluate wrote (sides base and tuned). Without a `champion` the candidate
    is compared with its base. `noise` is the calibrated one by metric; `exhibit` is what else the page
    shows, `anchored` are the losses on the rows that the champion was judged by. Raises NotCalibrated.
    """
    if champion and champion.adapter == adapter:
        return _same(champion, recipe)
    graded = _graded(outcomes, champion)
    opponent = graded.champion if champion else graded.base
    differences: tuple[PairedDifference, ...] = ()
    if opponent is not None:
        differences = contest(graded.candidate, opponent, _rule(recipe, champion), noise)
    judged = _judgement(graded, outcomes, champion, recipe, differences)
    if champion:
        on_anchor = anchor.differences(anchored, recipe.promotion, noise)
        held = anchor.verdicts(on_anchor, anchored, champion.name, recipe)
        judged = Judgement(GATE, judged.subject, [*judged.verdicts, *held])
        differences += on_anchor
    outcome = _outcome(judged, recipe)
    reasons = _reasons(outcome, judged, recipe)
    telling = findings.telling(differences, recipe.promotion)
    case = Case(
        outcome,
        reasons,
        differences,
        judged.verdicts,
        _name(champion),
        recipe.promotion,
        exhibit.subject,
        findings.more_examples(telling),
    )
    is_measured = anchored is not None and not anchored.missing
    beside = anchored.outcomes if anchored and is_measured else None
    paths = (outcomes, champion.outcomes if champion else None, beside)
    write = partial(write_case, case, paths, exhibit)
    judged = Judgement(
        judged.stage,
        judged.subject,
        judged.verdicts,
        write=write,
        markdown=markdown(case),
        lead=findings.why_rejected(judged, differences) if judged.failed else "",
    )
    compared = findings.compared(telling, _name(champion), differences)
    return Decision(outcome, reasons, differences, judged, case.next_step, compared)


def _rule(recipe: Recipe, champion: Opponent | None) -> Promotion:
    """Return the rule of a comparison: a base is no other training of the recipe."""
    rule = recipe.promotion
    return rule if champion else rule.model_copy(update={"assumed_noise": 0.0})


class _Graded(NamedTuple):
    """The grades of candidate, base and champion; None: there is none, or nothing of it."""

    candidate: "pl.DataFrame"
    base: "pl.DataFrame"
    champion: "pl.DataFrame | None"


def _graded(outcomes: Path, champion: Opponent | None) -> _Graded:
    grades, others = read_grades(outcomes), None
    if champion and champion.outcomes:
        others = of_side(read_grades(champion.outcomes), CHAMPION)
    return _Graded(of_side(grades, TUNED), of_side(grades, BASE), others)


def _judgement(
    graded: _Graded,
    outcomes: Path,
    champion: Opponent | None,
    recipe: Recipe,
    differences: Sequence[PairedDifference],
) -> Judgement:
    """Return the verdicts on a candidate, by its `differences` from the champion (None: its base) and
    by what is said of it alone."""
    import polars as pl

    references = {"base": graded.base}
    if graded.champion is not None:
        references["champion"] = graded.champion
    called = partial(names, pl.scan_parquet(outcomes))
    opponent = "champion" if champion else "base"
    verdicts = [
        *(
            [_unmeasured(champion, recipe)]
            if champion and graded.champion is None
            else [
                *demands.wins(differences, opponent, recipe),
                *demands.no_worse(differences, opponent, recipe),
            ]
        ),
        *demands.floors(graded.candidate, recipe),
        *demands.budget(graded.candidate, references, called, recipe),
        *demands.incidents(graded.candidate, called, recipe),
    ]
    return Judgement(GATE, "candidate", verdicts)


def _name(champion: Opponent | None) -> str:
    return champion.name if champion else "base"


def _unmeasured(champion: Opponent, recipe: Recipe) -> Verdict:
    expected = f"better than the {champion.name}"
    seen = f"it could not be measured: {champion.problem or 'there are no outcomes of it'}"
    return demands.unjudged("win", expected, seen, recipe, setting="promotion.wins")


def _same(champion: Opponent, recipe: Recipe) -> Decision:
    """Return the decision on the champion itself, trained again: its weights were made before."""
    gravity = severity(recipe, GATE, "win")
    verdict = Verdict(
        gate=GATE,
        name="win",
        expected=f"better than the {champion.name}",
        seen="equivalent: the same model",
        setting="promotion.wins",
        severity="warning" if gravity == "critical" else gravity,
        passed=False,
    )
    reason = f"equivalent: the same model as the {champion.name}"
    return Decision("equivalent", (reason,), (), Judgement(GATE, "candidate", (verdict,)))


def _outcome(judged: Judgement, recipe: Recipe) -> Ruling:
    if judged.failed:
        return "rejected"
    short = _short(judged, recipe)
    if any(verdict.judged for verdict in short):  # required to be better, and equivalent
        return "equivalent"
    if short:
        return "undecided"
    return "promote" if recipe.promotion.mode == "auto" else "held"


def _short(judged: Judgement, recipe: Recipe) -> list[Verdict]:
    """Return the verdicts that a promotion is wanting: of what must hold, what was not shown to."""
    return [
        verdict
        for verdict in judged.verdicts
        if not verdict.passed and anchor.gravity(recipe, verdict.name) == "critical"
    ]


def _reasons(outcome: Ruling, judged: Judgement, recipe: Recipe) -> tuple[str, ...]:
    if outcome == "rejected":
        return tuple(map(str, judged.failed))
    if outcome == "held":
        waived = (verdict for verdict in judged.verdicts if verdict.name == "anchor_waiver")
        won = (verdict for verdict in judged.verdicts if verdict.name == "win")
        return (HELD[recipe.promotion.mode], *map(str, won), *map(str, waived))
    if outcome == "promote":
        told = ("win", "anchor_waiver")
        shown: Iterable[Verdict] = (verdict for verdict in judged.verdicts if verdict.name in told)
        return tuple(map(str, shown))
    return tuple(map(str, _short(judged, recipe)))
