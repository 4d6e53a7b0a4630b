"""Made-up outcomes of models of stated quality, as evaluate writes them."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from retune.outcomes import Outcome, write_outcomes

SOURCES = ("mail", "chat", "code", "forum")


def side(
    name: str,
    *,
    loss: float = 1.2,
    match: float = 0.6,
    battery: float = 0.8,
    seed: int = 0,
    rows: int = 300,
    slices: Mapping[str, float] = {},
    incidents: int = 0,
    failing: tuple[int, ...] = (),
    forgotten: int = 0,
) -> list[Outcome]:
    """Return what one model did: `rows` losses and questions, a battery of 120 probes, of which the
    first `forgotten` are missed, and `incidents` cases.

    The examples are the same for every `seed`, and so is how hard they are; what differs by it is
    what a model adds of its own. `slices` are losses to be added by source.
    """
    hard, own = np.random.default_rng(7), np.random.default_rng(seed)
    levels, tokens = hard.lognormal(0, 0.5, rows), hard.integers(5, 400, rows)
    difficulty, own_luck = hard.random((2, rows)), own.random((2, rows))
    probes = np.random.default_rng(11).random(120)
    found = []
    for row in range(rows):
        source = SOURCES[row % len(SOURCES)]
        own_loss = loss * levels[row] * own.lognormal(0, 0.03) + slices.get(source, 0.0)
        prompt = json.dumps([{"role": "user", "content": f"Question {row} of {source}?"}])
        common = {"side": name, "slice": source, "prompt": prompt, "seconds": 0.1}
        found.append(
            Outcome(
                suite="held_out", example=f"l{row:015x}", expected="", answer=None, stopped=None,
                tokens=int(tokens[row]), grades={"loss": float(own_loss)}, **common,
            )
        )  # fmt: skip
        right = 0.9 * difficulty[0, row] + 0.1 * own_luck[0, row] < match
        ends = 0.9 * difficulty[1, row] + 0.1 * own_luck[1, row] < 0.97
        found.append(
            Outcome(
                suite="held_out", example=f"q{row:015x}", expected=f"answer {row}",
                answer=f"answer {row}" if right else f"no idea, ask ops{row}@example.com",
                stopped=bool(ends), tokens=4,
                grades={"exact_match": float(right), "stopped": float(ends)}, **common,
            )
        )  # fmt: skip
    for item in range(120):
        passed = bool(item >= forgotten and probes[item] < battery)
        found.append(_probe(name, "battery", item, passed))
    found += [
        _probe(name, "incidents", item, passed=item not in failing) for item in range(incidents)
    ]
    return found


def _probe(side_name: str, suite: str, item: int, passed: bool) -> Outcome:
    return Outcome(
        side=side_name,
        suite=suite,
        slice=("arithmetic", "json", "languages")[item % 3],
        example=f"{suite[0]}{item:015x}",
        prompt=json.dumps([{"role": "user", "content": f"Probe {item} of {suite}"}]),
        expected="42",
        answer="42" if passed else "a long time ago",
        stopped=True,
        tokens=3,
        seconds=0.2,
        grades={"passed": float(passed)},
    )


def written(path: Path, *sides: list[Outcome]) -> Path:
    write_outcomes(path, [outcome for one in sides for outcome in one])
    return path
