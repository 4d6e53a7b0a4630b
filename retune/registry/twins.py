"""Versions that are as good as the same: whether one like it was rolled back before."""

import json
from collections.abc import Iterator

from retune.registry.log import PromotionEntry, history
from retune.registry.versions import RegisteredVersion, versions
from retune.tracking import DECISION, OPPONENT, client

FILE = "retune.file."  # tag of a version, by method: a GGUF file that may ship
EQUIVALENT = "Equivalent"
MOST = 100  # runs of one version that are asked


def unwanted_twin(candidate: RegisteredVersion, experiment_id: str) -> str:
    """Return in a sentence which version that was rolled back a version is like, and why that one was;
    "" if it is like none that is known of. The runs of its recipe are in the experiment.

    It is if it gives the same file, or if it was found to be equivalent to that one.
    """
    barred = [one for one in versions(candidate.name) if one.barred is not None]
    if not barred:
        return ""
    files, opponents = set(_files(candidate)), set(_equivalent_to(candidate, experiment_id))
    for one in reversed(barred):
        if files & set(_files(one)):
            return _sentence(candidate, one, "gives the same file as")
        if one.number != candidate.number and one.tags.get("retune.adapter") in opponents:
            return _sentence(candidate, one, "was found to be equivalent to")
    return ""


def _files(one: RegisteredVersion) -> Iterator[str]:
    """Yield what tells the GGUF files of a version from others."""
    for key, text in one.tags.items():
        if key.startswith(FILE):
            yield json.loads(text)["sha256"]


def _equivalent_to(candidate: RegisteredVersion, experiment_id: str) -> Iterator[str]:
    """Yield the adapters of the champions that a version was found to be equivalent to."""
    condition = (
        f"tags.`retune.registered` = '{candidate}' AND tags.`{DECISION}` LIKE '{EQUIVALENT}%'"
    )
    for run in client().search_runs([experiment_id], condition, max_results=MOST):
        yield run.data.tags.get(OPPONENT, "")


def _sentence(candidate: RegisteredVersion, one: RegisteredVersion, how: str) -> str:
    if one.number == candidate.number:
        what = f"It was rolled back itself{_when(one)}"
    else:
        what = f"It {how} version {one.number}, which was rolled back{_when(one)}"
    return f"{what}: {one.barred}."


def _when(one: RegisteredVersion) -> str:
    entry = _rollback(history(one.name), one.number)
    return f" on {entry.at:%Y-%m-%d %H:%M} UTC by {entry.by}" if entry else ""


def _rollback(log: list[PromotionEntry], number: int) -> PromotionEntry | None:
    """Return the entry by which a version was rolled back last."""
    left = (one for one in reversed(log) if one.kind == "rollback" and one.former == number)
    return next(left, None)
