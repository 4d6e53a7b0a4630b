"""What the flow does with a decision: which version serves from now on, and how the run ends."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from prefect import get_run_logger, runtime

from expectations.llm_judge import counted
from expectations.promotion import approval
from expectations.promotion.decision import Decision, Opponent, decide
from expectations.promotion.evidence import Exhibit
from expectations.promotion.subject import AboutCandidate
from expectations.verdicts import Rejected, require
from flows import in_service
from flows.approval import answered_at, can_suspend, flow_run_page, form
from flows.resumed import leave_others
from retune import registry
from retune.files import digest
from retune.measures import format_duration, measure, title
from retune.notes import (
    COMPARED,
    NEXT_STEP,
    beside_the_evidence,
    differing_settings,
    renew,
    short_name,
    stored_run,
)
from retune.pages import mlflow_pages
from retune.recipe import Recipe
from retune.records import Adapter, Anchored, Contender, JudgedAnswers, Pins
from retune.registry import Candidate, PromotionEntry, RegisteredVersion
from retune.registry.approvals import (
    ApprovalAnswer,
    Request,
    answer,
    answer_of,
    ask,
    request_of,
)
from retune.retention import WAITING
from retune.saved_view import evidence_link
from retune.tracking import REJECTED, Run, client

STAYS = {  # why a candidate stays a challenger, in the first line of what is told
    "equivalent": "{} is no better than what it was compared with, and stays a challenger",
    "undecided": "Too little evidence on {}, which stays a challenger",
}


class Ending(NamedTuple):
    """How a run ends: the `name` of Prefect's state, the reason, and whether its candidate serves."""

    name: str
    reason: str
    serves: bool = False
    entry: PromotionEntry | None = None


def opponent(
    pins: Pins, contender: Contender | None, judged: Path | None = None
) -> Opponent | None:
    """Return the champion as the candidate's opponent; None: there is none, but its base. `judged` is
    the file of the outcomes of all, if a judge has graded them."""
    if pins.champion is None:
        return None
    name = f"champion, version {pins.champion.version}"
    outcomes = (judged or contender.outcomes) if contender and not contender.missing else None
    problem = contender.missing if contender else ""
    return Opponent(name, pins.champion.adapter, outcomes, problem)


def decided(
    run: Run,
    version: RegisteredVersion,
    made: Candidate,
    contender: Contender | None,
    recipe: Recipe,
    pins: Pins,
    noise: Mapping[str, float],
    judged: JudgedAnswers | None = None,
    anchored: Anchored | None = None,
) -> Decision:
    """Return what becomes of the candidate, compared with the champion that the run is pinned to; the
    run's pages say what a person would do now.

    `noise` are standard deviations of measures between replicas of the recipe, if they are known; the
    grades of the LLM judge count where it is to be trusted. `anchored` is how both do on the rows that
    the champion was judged by.
    """
    outcomes = judged.outcomes if judged and counted(judged, recipe) else None
    adapter = made.adapter.step.fingerprint
    if pins.champion and pins.champion.version == version.number:
        adapter = pins.champion.adapter  # the same weights, made another way
    stored = client().get_run(run.id)
    has_gpu = stored.data.tags.get("retune.machine.gpu") != "none"
    facts = spent(made.adapter, has_gpu=has_gpu) | {"version": str(version), "MLflow run": run.id}
    if differing := differing_settings(stored):
        facts["settings unlike the champion's"] = differing
    subject = subject_of(run.id, version)
    if recipe.promotion.mode == "approve":
        champion = pins.champion.version if pins.champion else None
        subject = asked_until(subject, version, due(version, recipe, champion))
    decision = decide(
        outcomes or made.scores.outcomes,
        adapter,
        opponent(pins, contender, outcomes),
        recipe,
        noise,
        exhibit=Exhibit(made.files, facts, subject),
        anchored=anchored,
    )
    compared = " ".join(filter(None, (decision.compared, subject.alike)))
    run.set_tags({NEXT_STEP: decision.next_step, COMPARED: compared})
    return decision._replace(until=subject.until)


def subject_of(run_id: str, version: RegisteredVersion) -> AboutCandidate:
    """Return whom evidence on a version is about that an MLflow run judges, and which one serves
    meanwhile."""
    name, serving = version.name, registry.serving(version.name)
    entry = registry.who_served(registry.history(name), datetime.now(UTC)) if serving else None
    clause = f"no version of {name} serves yet"
    if serving:
        since = f" since {entry.at:%Y-%m-%d %H:%M} UTC" if entry else ""
        clause = f"{serving} serves{since}"
    stored = client().get_run(run_id)
    reused = stored.data.tags.get("retune.train") == "reused"
    return AboutCandidate(
        name,
        version.number,
        _name(run_id),
        run_id,
        clause,
        is_first=serving is None,
        trained_by=_name(version.run_id) if reused and version.run_id != run_id else "",
        alike=registry.unwanted_twin(version, stored.info.experiment_id),
    )


def asked_until(
    subject: AboutCandidate, version: RegisteredVersion, until: datetime
) -> AboutCandidate:
    """Return whom evidence is about if a person is asked until a moment, with the page that waits."""
    page = flow_run_page() if can_suspend() else None
    return subject._replace(until=until, page=page)


def due(version: RegisteredVersion, recipe: Recipe, champion: int | None) -> datetime:
    """Return until when an answer counts on a version as it compares with `champion`: asked twice, the
    first time stands."""
    noted = request_of(version)
    same = noted is not None and noted.champion == champion
    return noted.expires if noted and same else approval.deadline(recipe)


def _name(run_id: str) -> str:
    stored = stored_run(run_id)
    return short_name(stored) if stored else run_id


def spent(adapter: Adapter, *, has_gpu: bool = True) -> dict[str, str]:
    """Return what a training took, in words: also one that this run reused, for it made the candidate.
    Of a machine without a GPU no GPU-hours are told."""
    took = {"training took": format_duration(adapter.seconds)}
    names = (*(("gpu_hours",) if has_gpu else ()), "energy_kwh", "cost")
    return took | {
        title(name): measure(name).text(adapter.metrics[name])
        for name in names
        if name in adapter.metrics
    }


def evidence_of(decision: Decision, champion: int | None) -> dict[str, Any]:
    """Return what a decision stands on, in JSON's types."""
    return {
        "outcome": decision.outcome,
        "champion": champion,
        "reasons": list(decision.reasons),
        "differences": [one.model_dump(mode="json") for one in decision.differences],
    }


def settle(
    run: Run, version: RegisteredVersion, decision: Decision, recipe: Recipe, pins: Pins
) -> Ending:
    """Promote the candidate, or not, as was decided, and return how the run ends.

    Raises Rejected if a person says no, or nobody says anything in time, and Waiting while the run
    waits for somebody.
    """
    leave_others(recipe, run.id)
    champion = pins.champion.version if pins.champion else None
    if (
        champion is None
        and (other := registry.serving(version.name))
        and other.number != version.number
    ):
        champion = other.number  # of an earlier retune, which cannot be compared with
    try:
        ending = _ending(run, version, decision, recipe, champion)
    except Rejected:
        run.set_tags({NEXT_STEP: answered(run.id, version, None)})
        raise
    if decision.outcome == "held" and ending.entry:
        run.set_tags({NEXT_STEP: answered(run.id, version, ending.entry)})
    registry.decided_as(version, run.id, ending.name, ending.reason)
    return ending


def decided_later(
    version: RegisteredVersion,
    run_id: str,
    name: str,
    why: str,
    entry: PromotionEntry | None = None,
) -> None:
    """Note what became of a candidate whose run has ended: `name` is that of Prefect's state, `entry`
    that of its promotion."""
    registry.decided_as(version, run_id, name, why)
    renew(run_id, f"{name}: {why}", answered(run_id, version, entry))


def answered(run_id: str, version: RegisteredVersion, entry: PromotionEntry | None) -> str:
    """Return what there is to do now about a candidate that a person was asked about: `entry` is that
    of its promotion, None where nobody approved it."""
    subject = subject_of(run_id, version)
    if entry is None:
        return subject.next_step("turned down", "approve")
    return subject._replace(is_first=entry.former is None).next_step("approved", "approve")


@contextmanager
def noting(run: Run, version: RegisteredVersion) -> Iterator[None]:
    """Keep with the version, too, that it was rejected."""
    try:
        yield
    except Rejected as rejected:
        reason = "; ".join(map(str, rejected.judgement.failed))
        registry.decided_as(version, run.id, REJECTED, reason)
        raise


def after(ending: Ending, version: RegisteredVersion, decision: Decision, recipe: Recipe) -> None:
    """Let everything follow that a promotion brings; a failure is told, and fails nothing."""
    promotion = recipe.promotion
    news = in_service.News(promotion.webhooks, promotion.ollama)
    if ending.entry:
        evidence = evidence_of(decision, ending.entry.former)
        current = registry.version(version.name, version.number)
        for failure in in_service.follow(ending.entry, current, news, evidence):
            get_run_logger().warning("%s", failure)
    elif ending.serves:  # what it serves may be made of other settings, or was deleted
        for failure in in_service.serve(registry.version(version.name, version.number)):
            get_run_logger().warning("%s", failure)
    in_service.show(version.name)


def _ending(
    run: Run, version: RegisteredVersion, decision: Decision, recipe: Recipe, champion: int | None
) -> Ending:
    serving = registry.serving(version.name)
    if serving and serving.number == version.number:
        return Ending("Equivalent", f"{version} serves already", serves=True)
    if decision.outcome in STAYS:
        lines = [STAYS[decision.outcome].format(version), *map("- {}".format, decision.reasons)]
        return Ending(decision.outcome.capitalize(), "\n".join(lines))
    reason = "; ".join(decision.reasons)
    if version.barred is not None:
        return Ending("Barred", f"{version} was rolled back: {version.barred}")
    evidence = evidence_of(decision, champion)
    by = "retune"
    if decision.outcome == "held":
        if recipe.promotion.mode == "never":
            return Ending("Registered", reason)
        said = _answer(run, version, decision, recipe, champion)
        if said is None:
            return Ending(WAITING, _waits(version))
        by, reason = said.by, said.reason or "approved"
    entry = registry.promote(version.name, version.number, by, reason, evidence, champion)
    why = f": {reason}" if by == "retune" else f"; reason ({by}): {reason}"
    return Ending("Promoted", f"{version} serves{entry.instead}{why}", serves=True, entry=entry)


def _waits(version: RegisteredVersion) -> str:
    """Return that a version waits, until when, and what answers; of a run that has asked already."""
    request = request_of(registry.version(version.name, version.number))
    until = f" until {request.expires:%Y-%m-%d %H:%M} UTC" if request else ""
    form = "Resume in the menu (⋮) of its page in Prefect, " if can_suspend() else ""
    how = f"{form}`retune approve {version}` or `retune reject {version}`"
    return f"{version} waits for an approval{until}: {how}"


def _answer(
    run: Run, version: RegisteredVersion, decision: Decision, recipe: Recipe, champion: int | None
) -> ApprovalAnswer | None:
    """Return what a person said; None: the run ends without an answer.

    Raises Rejected, or Waiting.
    """
    said, former = answer_of(version, champion), request_of(version)
    if said is None:
        request = ask(
            version,
            Request(
                run_id=run.id,
                champion=champion,
                evidence=digest(evidence_of(decision, champion)),
                expires=decision.until or due(version, recipe, champion),
                flow_run_id=runtime.flow_run.id if can_suspend() else None,
            ),
        )
        answered = answered_at(str(version), request)
        if request.has_expired(answered):
            require(approval.expired(request.expires))
        if not can_suspend():
            return None
        registry.decided_as(version, run.id, WAITING, _waits(version))
        address = mlflow_pages()
        place = evidence_link(address, run.experiment_id, run.id) if address else ""
        question = approval.question(str(version), champion, request.expires, run.id, place)
        parts = (
            question,
            *beside_the_evidence(client().get_run(run.id)),
            decision.judgement.markdown,
        )
        evidence = "\n\n".join(parts)
        if former and former.champion != champion:
            sentence = approval.stale(str(version), former.champion, champion)
            get_run_logger().warning("%s", sentence)
            evidence = f"**{sentence}**\n\n{evidence}"
        filled = form(str(version), request, evidence)
        said = answer_of(registry.version(version.name, version.number), champion)
        if said is None:
            said, _, _ = answer(version, filled.verb, filled.by.strip(), filled.reason, answered)
    if said.verb == "reject":
        require(approval.rejected_by_a_person(said.by, said.reason))
    return said
