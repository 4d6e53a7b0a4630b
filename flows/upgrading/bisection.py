"""Which of many changes makes a difference: a search that halves them."""

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
MOST = 3  # culprits that are named; each takes as many trials as the changes can be halved


def culprits(changes: Sequence[T], differs: Callable[[Sequence[T]], bool]) -> list[T]:
    """Return changes that each make a difference, in the order in which they were found.

    `differs` tells whether these changes together do; all of `changes` do. What makes a difference only
    together with another is found as that of the two which comes last.
    """
    remaining, found = list(changes), list[T]()
    while len(found) < MOST:
        found.append(remaining.pop(_last_needed(remaining, differs)))
        if not remaining or not differs(remaining):
            break
    return found


def _last_needed(changes: Sequence[T], differs: Callable[[Sequence[T]], bool]) -> int:
    """Return the place of the change with which the first changes begin to make a difference."""
    same, different = 0, len(changes)  # of the first so many
    while different - same > 1:
        middle = (same + different) // 2
        if differs(changes[:middle]):
            different = middle
        else:
            same = middle
    return different - 1
