"""What the recipe's suites ask: rows near it are not trained on, or it would be no test."""

from typing import NamedTuple

from retune.files import digest
from retune.recipe import Recipe
from retune.suites.files import own_suites
from retune.suites.probes import SuiteProbe


class SuiteCase(NamedTuple):
    """What a probe asks, and what it is called."""

    name: str
    texts: tuple[str, ...]


def cases(recipe: Recipe, pins: tuple[str, ...]) -> tuple[SuiteCase, ...]:
    """Return what the probes of the recipe's own suites and its incidents ask; `pins` are the
    versions of their files.

    The battery is left out: of its everyday questions sound rows have many. Raises SourceError for a
    file that is not what was pinned.
    """
    return tuple(
        SuiteCase(f"{suite}/{probe.id or number}", _texts(probe))
        for suite, probes in own_suites(recipe, pins).items()
        for number, probe in enumerate(probes)
    )


def pin_cases(recipe: Recipe, pins: tuple[str, ...]) -> str | None:
    """Return what identifies what is asked, None where there is nothing: rows are looked at again when
    it changes, and not for another grader."""
    asked = cases(recipe, pins)
    return digest([list(case) for case in asked]) if asked else None


def _texts(probe: SuiteProbe) -> tuple[str, ...]:
    """Return the conversation as one text, and its last message.

    System messages are left out, for all rows may share them. Turns are not taken one by one: rows
    have many greetings.
    """
    spoken = [message for message in probe.messages if message.role != "system"]
    whole = "\n".join(message.content or "" for message in spoken)
    return tuple(dict.fromkeys((whole, spoken[-1].content or "")))
