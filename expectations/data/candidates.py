"""Judging the few places of a text that a linear-time pattern lets through.

A library's verdict in Python is asked about short candidates, never about a whole message: what it
costs is then linear in the message's length, whatever its own patterns do. How many candidates are
asked about is bounded by count, not by the clock, so that a verdict is the same on every machine.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

MOST = 2000  # different candidates of one text and one kind
LONGEST = 100_000  # characters of a candidate


def without_look_arounds(pattern: str) -> str:
    """Return a pattern that finds whatever `pattern` does, and more, in linear time."""
    import re

    return re.sub(r"\(\?<?[=!](?:[^()\\\[]|\\.|\[(?:[^\]\\]|\\.)*\])*\)", "", pattern)


def contains_any(texts: "pl.Series", patterns: Iterable[str]) -> "pl.Series":
    """Return which texts one of the patterns finds something in; a null holds nothing.

    Each pattern is looked for by itself. All of them as one have so many states that the engine's
    cache overflows, and what is left to it then takes twenty times as long.
    """
    import polars as pl

    contained = pl.repeat(False, len(texts), dtype=pl.Boolean, eager=True)
    for pattern in patterns:
        contained |= texts.str.contains(pattern).fill_null(False)
    return contained


def any_holds(candidates: Iterable[str], check: Callable[[str], bool]) -> bool | None:
    """Tell whether `check` holds for one of the candidates; None when that is not known, because
    there are too many or too long ones, or one that the check itself cannot take."""
    tried: set[str] = set()
    conclusive = True
    for candidate in candidates:
        if candidate in tried:
            continue
        if len(tried) == MOST:
            return None
        tried.add(candidate)
        if len(candidate) > LONGEST:
            conclusive = False
            continue
        try:
            if check(candidate):
                return True
        except RecursionError:  # a token may hold JSON that is nested a thousand times
            conclusive = False
    return False if conclusive else None


def judged(
    texts: "pl.Series",
    suspect: "pl.Series",
    candidates: Callable[[str], Iterable[str]],
    check: Callable[[str], bool],
) -> "pl.Series":
    """Return for each text whether `check` holds for one of its candidates: null when that is not
    known. Only texts that are `suspect` are asked."""
    import polars as pl

    suspect = suspect.fill_null(False)
    verdicts = [any_holds(candidates(text), check) for text in texts.filter(suspect)]
    return suspect.scatter(suspect.arg_true(), pl.Series(verdicts, dtype=pl.Boolean))
