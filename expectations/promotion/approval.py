"""The verdict on a candidate that a person was asked about."""

from datetime import UTC, datetime, timedelta

from expectations.promotion.demands import GATE
from expectations.verdicts import Judgement, Verdict
from retune.recipe import Recipe

REJECTED_BY = "Rejected: rejected by "  # how a decision begins that a person made by a command
APPROVED = "approved by a person"  # what is expected
SETTING = "promotion.approval_hours"


def deadline(recipe: Recipe) -> datetime:
    """Return until when a candidate waits that is held from now on."""
    return datetime.now(UTC) + timedelta(hours=recipe.promotion.approval_hours)


def rejected_by_a_person(by: str, reason: str) -> Judgement:
    """Return the judgement that somebody does not want the candidate."""
    return _judgement(f"rejected by {by}{': ' if reason else ''}{reason}", "")


def expired(until: datetime) -> Judgement:
    """Return the judgement that nobody has answered in time."""
    return _judgement(
        f"the approval expired: nobody answered until {until:%Y-%m-%d %H:%M} UTC", SETTING
    )


def question(
    candidate: str, champion: int | None, until: datetime, run_id: str, page: str = ""
) -> str:
    """Return in Markdown what a person is asked, above the evidence; `run_id` is MLflow's, `page` the
    address of all of the evidence, "" if nobody knows it."""
    place = f"serve instead of version {champion}" if champion else "serve, as the first"
    return (
        f"Shall **{candidate}** {place}? Without an answer until {until:%Y-%m-%d %H:%M} UTC it counts as "
        f"rejected. {place_of(run_id, page)}"
    )


def place_of(run_id: str, page: str) -> str:
    """Return in a sentence of Markdown where all of the evidence is."""
    if page:
        return f"[All of the evidence]({page}) is with MLflow's run `{run_id}`."
    return f"All of the evidence is `promote/evidence.html` of MLflow's run `{run_id}`."


def stale(candidate: str, then: int | None, now: int | None) -> str:
    """Return the sentence that whoever answered before is asked again: another version serves by now
    than the candidate was compared `then` with (None: its base)."""
    opponents = (f"version {number}" if number else "its base" for number in (then, now))
    return (
        "What was answered before does not count: {} was compared with {} then, and by now {} serves. "
        "This is the comparison with that one."
    ).format(candidate, *opponents)


def _judgement(seen: str, setting: str) -> Judgement:
    verdict = Verdict(
        gate=GATE,
        name="approval",
        expected=APPROVED,
        seen=seen,
        setting=setting,
        passed=False,
        fix="promoting the version by hand (`retune promote`) lets it serve all the same",
    )
    return Judgement(GATE, "candidate", [verdict], lead=seen)
