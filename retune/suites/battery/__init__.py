"""The battery: probes that every sound model of any size can be asked, each with a certain answer.

It shows what a model forgets. Every slice is a file of probes next to this module.
"""

from functools import cache
from pathlib import Path

from retune.outcomes import BATTERY
from retune.suites.probes import SuiteProbe, read_probes

FILES = tuple(
    Path(__file__).with_name(f"{name}.jsonl")
    for name in ("instructions", "json", "arithmetic", "facts", "languages", "tools", "safety")
)
MAX_NEW_TOKENS = 64  # of an answer: all that is asked for is short


@cache
def all_probes() -> tuple[SuiteProbe, ...]:
    """Return every probe, slice by slice."""
    return tuple(probe for file in FILES for probe in read_probes(file, BATTERY))


def battery(rows: int) -> tuple[SuiteProbe, ...]:
    """Return up to `rows` probes: the first ones of each slice, in turns."""
    turns: dict[str, int] = {}
    placed = []
    for number, probe in enumerate(all_probes()):
        turn = turns[probe.slice] = turns.get(probe.slice, -1) + 1
        placed.append((turn, number, probe))
    chosen = sorted(placed, key=lambda one: one[:2])[:rows]
    return tuple(probe for _, _, probe in sorted(chosen, key=lambda one: one[1]))
