"""Answers that end in a loop: a model that generated them got stuck, and one that learns them will.

The period is where the last characters stood before; how far it reaches back is read once, so that
the time is linear in the end that is looked at.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

_END = 6000  # characters in which a loop is looked for
_PROBE = 12  # characters by which a period is found
_FEWEST, _FEWEST_LONG = 8, 5  # repetitions; of a unit of _LONG characters, fewer
_LONG = 40
_SHORTEST = 60  # characters of a loop


def may_end_in_loop(text: "pl.Expr") -> "pl.Expr":
    """Return whether the last characters of texts stand in them often enough."""
    import polars as pl

    end = text.str.strip_chars_end().str.tail(_END)
    probe = end.str.tail(_PROBE)
    return (end.str.len_chars() >= _SHORTEST) & (
        pl.when(end.str.len_chars() >= _SHORTEST).then(end.str.count_matches(probe, literal=True))
        >= _FEWEST_LONG - 1
    )


def ends_in_loop(text: str) -> bool:
    """Tell whether a text ends in the same words again and again."""
    end = text.rstrip()[-_END:]
    place = end.rfind(end[-_PROBE:], 0, len(end) - 1)
    period = len(end) - _PROBE - place
    if place < 0:
        return False
    reach = period
    while reach < len(end) and end[-reach - 1] == end[-reach - 1 + period]:
        reach += 1
    fewest = _FEWEST_LONG if period >= _LONG else _FEWEST
    if reach < max(fewest * period, _SHORTEST):
        return False
    return sum(sign.isalpha() for sign in end[-period:]) >= 2
