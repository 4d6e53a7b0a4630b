"""One request of production with its answer, and what people said of both."""

import math
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from retune.harvesting.settings import Harvest

Field = Callable[[str], Any]  # the value of a field by its name, None if there is none
_LONGEST_WORD = 100  # characters of a value that may be one of the settings'
_MILLISECONDS = 1e11  # a time from here on is in these: as seconds it would be the year 5138
_VERDICT_KEYS = ("value", "score")  # of a verdict that is an object


class Unread(NamedTuple):
    """What is no record: where it was seen, and why it is none (masked)."""

    place: str
    problem: str


class Record(NamedTuple):
    """A request and its response, as they were logged.

    `name` is the trace's id ("": none), `time` in seconds since 1970, `verdict` a person's (True: good),
    `unclear` whether there is one that the settings do not know, `edit` the answer as a person corrected
    it, `failed` whether the request did not end well or its answer was cut off.
    """

    place: str
    name: str
    request: Any
    response: Any
    time: float | None
    user: str | None
    consents: bool
    verdict: bool | None
    unclear: bool
    edit: str | None
    failed: bool


class Opinion(NamedTuple):
    """What was said of an answer."""

    verdict: bool | None
    unclear: bool
    edit: str | None


def consents(field: Field, settings: Harvest) -> bool:
    """Tell whether a conversation may be trained on, as far as its field says."""
    if not settings.consent_field:
        return True
    return word(field(settings.consent_field)) in settings.consent_values


def opinion(values: Iterable[tuple[str, Any]], settings: Harvest) -> Opinion:
    """Return what the last of named values says: thumbs, and edits; objects hold both."""
    verdict, edit, unclear = None, None, False
    for name, value in values:
        parts = value.items() if isinstance(value, dict) else [(name, value)]
        for key, part in parts:
            if key in settings.edit_fields and isinstance(part, str) and part.strip():
                edit = part
            elif key in settings.feedback_fields or (part is not value and key in _VERDICT_KEYS):
                said = _verdict(part, settings)
                unclear = unclear or (said is None and part is not None)
                verdict = verdict if said is None else said
    return Opinion(verdict, unclear and verdict is None, edit)


def _verdict(value: Any, settings: Harvest) -> bool | None:
    said = word(value)
    if said in settings.feedback_up:
        return True
    return False if said in settings.feedback_down else None


def word(value: Any) -> str:
    """Return a value as a word of the settings: `true`, `1`, `thumbs_up`; "" for what is none."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and abs(value) < 1000:
        return str(value)
    if isinstance(value, str) and len(value) <= _LONGEST_WORD:
        return value.strip().casefold()
    return ""


def person(value: Any) -> str | None:
    """Return a user's id as text, None for what is none."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    return str(value).strip()[:1000] or None


def moment(value: Any, now: datetime) -> float | None:
    """Return a time in seconds since 1970; None for what is none, or lies in the future: what has no
    age can never be too old."""
    seconds = _seconds(value)
    latest = (now + timedelta(days=1)).timestamp()
    return seconds if seconds is not None and 0 < seconds <= latest else None


def _seconds(value: Any) -> float | None:
    if isinstance(value, str) and len(value) <= _LONGEST_WORD:
        try:
            value = float(value)
        except ValueError:
            return _of_text(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        seconds = float(value)
    except OverflowError:
        return None
    if not math.isfinite(seconds):
        return None
    return seconds / 1000 if seconds >= _MILLISECONDS else seconds


def _of_text(text: str) -> float | None:
    try:
        time = datetime.fromisoformat(text.strip())
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
