"""Candidates that wait for a person: what was asked, for how long, and what was answered.

Both are tags of the version, and each is of one comparison: with another champion they are void.
"""

from datetime import UTC, datetime
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict

from retune.registry.log import REASON_LIMIT, PromotionEntry
from retune.registry.promotions import Barred, changing
from retune.registry.versions import RegisteredVersion, RegistryError, version
from retune.tracking import client

REQUEST, ANSWER = "retune.approval.request", "retune.approval.answer"  # tags of a version
Verb = Literal["approve", "reject"]


class Request(BaseModel):
    """That a candidate waits until `expires`; `champion` is what it was compared with, None the base.

    `run_id` is the MLflow run that asks; `flow_run_id` that of Prefect's which is suspended until
    then and goes on when it is resumed, None if it has ended.
    """

    model_config = ConfigDict(frozen=True)

    run_id: str
    champion: int | None
    evidence: str
    expires: AwareDatetime
    flow_run_id: str | None = None

    def has_expired(self, answered: datetime | None = None) -> bool:
        """Tell whether it is too late for an answer that was given at a moment; None: for one now."""
        return (answered or datetime.now(UTC)) >= self.expires


class ApprovalAnswer(BaseModel):
    """What somebody said of a request."""

    model_config = ConfigDict(frozen=True)

    verb: Verb
    by: str
    reason: str
    at: AwareDatetime
    champion: int | None


def request_of(candidate: RegisteredVersion) -> Request | None:
    """Return what was asked of a version last."""
    text = candidate.tags.get(REQUEST)
    return Request.model_validate_json(text) if text else None


def answer_of(candidate: RegisteredVersion, champion: int | None) -> ApprovalAnswer | None:
    """Return the answer on a version as it compares with `champion`, None if there is none yet."""
    text = candidate.tags.get(ANSWER)
    answer = ApprovalAnswer.model_validate_json(text) if text else None
    return answer if answer and answer.champion == champion else None


def ask(candidate: RegisteredVersion, request: Request) -> Request:
    """Note that a version waits, and return what is noted: asked twice, the first request stands."""
    noted = request_of(candidate)
    if noted and noted.champion == request.champion:
        request = request.model_copy(update={"expires": noted.expires})
    _set(candidate, REQUEST, request)
    return request


def answer(
    candidate: RegisteredVersion, verb: Verb, by: str, reason: str, at: datetime | None = None
) -> tuple[ApprovalAnswer, Request, PromotionEntry]:
    """Note what somebody said, also in the promotion log; a promotion is another matter.

    `at` is when they said it, if that is a while ago.
    Raises StaleEvidence if another version serves than the candidate was compared with, Barred, or
    RegistryError if it does not wait, no longer, or was answered before.
    """
    name = candidate.name
    with changing(name) as model:
        current = version(name, candidate.number)
        request = request_of(current)
        if request is None:
            raise RegistryError(
                f"{current} waits for no approval; `retune promote {name} {current.number}` lets it serve"
            )
        if model.serving == current.number:
            raise RegistryError(f"{current} serves already; there is nothing to {verb}")
        if earlier := answer_of(current, request.champion):
            said = "approved" if earlier.verb == "approve" else "rejected"
            raise RegistryError(
                f"{current} was {said} by {earlier.by} ({earlier.at:%Y-%m-%d %H:%M} UTC)"
            )
        if request.has_expired(at):
            raise RegistryError(
                f"{current} waited for an approval until {request.expires:%Y-%m-%d %H:%M} UTC and "
                f"counts as rejected; `retune promote {name} {current.number}` lets it serve all the same"
            )
        model.require_serving(request.champion, current)
        if verb == "approve" and current.barred is not None:
            raise Barred(
                f"{current} is barred: {current.barred}; `retune promote … --unbar` lifts it"
            )
        entry = model.add(verb, current, model.serving, by, reason, {"digest": request.evidence})
        said_now = ApprovalAnswer(
            verb=verb, by=by, reason=reason[:REASON_LIMIT], at=entry.at, champion=request.champion
        )
        _set(current, ANSWER, said_now)
        return said_now, request, entry


def _set(candidate: RegisteredVersion, key: str, value: BaseModel) -> None:
    client().set_model_version_tag(
        candidate.name, str(candidate.number), key, value.model_dump_json()
    )
