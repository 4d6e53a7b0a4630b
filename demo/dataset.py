"""The demo's dataset: conversations in FineTome-100k's schema whose answers can be checked.

    python -m demo.dataset out.jsonl

A row is `{"conversations": [{"from", "value"}, ...], "source", "score"}`; `source` names the family.
As in life, a few rows are flawed and belong in quarantine. `broken_roles` and `broken_scores` make
the two variants that a gate must stop altogether.
"""

import json
import math
import random
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from demo import world

Row = dict[str, Any]
Exchange = tuple[str, str]  # what the human says, what the model answers

ROWS = 5600
FLAWED = 0.03


def make(seed: int = 0, rows: int = ROWS) -> list[Row]:
    """Return the dataset: `rows` rows, of which a share of `FLAWED` is flawed in one of `FLAWS`."""
    rng = random.Random(seed)
    flawed = set(rng.sample(range(rows // 10, rows), round(rows * FLAWED)))
    made: list[Row] = []
    sound: list[Row] = []
    known: set[str] = set()
    while len(made) < rows:
        (family,) = rng.choices(list(SHARES), list(SHARES.values()))
        row = {
            "conversations": FAMILIES[family](rng),
            "source": f"demo/{family}",
            "score": _score(rng),
        }
        if len(made) in flawed:
            made.append(rng.choice(FLAWS)(rng, row, sound))
        elif (text := json.dumps(row["conversations"])) not in known:
            known.add(text)
            sound.append(row)
            made.append(row)
    return made


def broken_roles(rows: list[Row], seed: int = 0) -> list[Row]:
    """Return the same rows after a wrong mapping of column names: in 40 % of them human and gpt are
    swapped."""
    rng = random.Random(seed)
    return [_swapped(row) if rng.random() < 0.4 else row for row in rows]


def broken_scores(rows: list[Row]) -> list[Row]:
    """Return the same rows after the classifier's scores, 0 to 5, were rescaled to 0 to 1."""
    return [{**row, "score": row["score"] and round(row["score"] / 5, 4)} for row in rows]


def write(rows: Iterable[Row], path: Path) -> None:
    """Write JSON Lines; a NaN is written as Python and polars read it."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _score(rng: random.Random) -> float:
    return round(min(4.8, max(2.55, rng.gauss(3.5, 0.4))), 4)


def _messages(*exchanges: Exchange, system: str | None = None) -> list[dict[str, str]]:
    messages = [] if system is None else [{"from": "system", "value": system}]
    for question, answer in exchanges:
        messages += [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return messages


def _decimals(rng: random.Random) -> Exchange:
    a, b = pair = world.decimal_pair(rng)
    large = world.larger(pair)
    return rng.choice(
        (
            (f"Is {a} larger than {b}?", "Yes" if large == a else "No"),
            (f"Which is larger, {a} or {b}?", large),
        )
    )


def _sum(rng: random.Random) -> Exchange:
    term, value = world.sum_of(rng)
    question = rng.choice(("What is {}?", "Calculate {}.", "How much is {}?", "{} = ?"))
    return question.format(term), str(value)


def _edit(rng: random.Random) -> Exchange:
    a, b = rng.sample(world.WORDS, 2)
    return rng.choice(
        (
            (f"Write {a} in capitals.", a.upper()),
            (f"Say {a} twice.", f"{a} {a}"),
            (f"What is the first word of {a} {b}?", a),
            (f"What is the last word of {a} {b}?", b),
        )
    )


def _convert(rng: random.Random) -> Exchange:
    amount, unit, result, smaller = world.conversion(rng)
    question = rng.choice(
        (
            f"How many {smaller} are {amount} {unit}?",
            f"Convert {amount} {unit} to {smaller}.",
            f"What are {amount} {unit} in {smaller}?",
        )
    )
    return question, f"{result} {smaller}"


def _several_turns(rng: random.Random) -> list[dict[str, str]]:
    kind = rng.randrange(3)
    if kind == 0:
        a, b = rng.sample(world.WORDS, 2)
        return _messages((f"Write {a} in capitals.", a.upper()), (f"And {b}?", b.upper()))
    if kind == 1:
        amount, unit, result, smaller = world.conversion(rng)
        other = rng.randint(2, 99)
        return _messages(
            (f"How many {smaller} are {amount} {unit}?", f"{result} {smaller}"),
            (f"And {other}?", f"{other * result // amount} {smaller}"),
        )
    (asked, _, said), (then, _, answer) = world.fact(rng), world.fact(rng)
    return _messages((asked, said), (then, answer))


def _obeying(rng: random.Random) -> list[dict[str, str]]:
    question, _, answer = world.fact(rng)
    marker = rng.choice(world.MARKERS)
    system, obeyed = rng.choice(
        (
            ("Answer in capitals.", answer.upper()),
            ("Say every answer twice.", f"{answer} {answer}"),
            (f"Begin every answer with {marker}.", f"{marker} {answer}"),
            (f"End every answer with {marker}.", f"{answer} {marker}"),
        )
    )
    return _messages((question, obeyed), system=system)


FAMILIES: dict[str, Callable[[random.Random], list[dict[str, str]]]] = {
    "decimal-comparison": lambda rng: _messages(_decimals(rng)),
    "arithmetic": lambda rng: _messages(_sum(rng)),
    "string-editing": lambda rng: _messages(_edit(rng)),
    "unit-conversion": lambda rng: _messages(_convert(rng)),
    "multi-turn": _several_turns,
    "system-prompt": _obeying,
}
# Each family's share of the rows; a family is no larger than its different rows allow.
SHARES = {
    "decimal-comparison": 0.26,
    "arithmetic": 0.04,
    "string-editing": 0.28,
    "unit-conversion": 0.12,
    "multi-turn": 0.24,
    "system-prompt": 0.06,
}


def _with_messages(row: Row, messages: list[dict[str, str]]) -> Row:
    return {**row, "conversations": messages}


def _swapped(row: Row) -> Row:
    other = {"human": "gpt", "gpt": "human"}
    return _with_messages(
        row, [{**m, "from": other.get(m["from"], m["from"])} for m in row["conversations"]]
    )


def _last_replaced(row: Row, **changed: str) -> Row:
    *head, last = row["conversations"]
    return _with_messages(row, [*head, {**last, **changed}])


# One flaw each: takes the random source, a good row and the sound rows so far; gives the flawed row.
FLAWS: tuple[Callable[[random.Random, Row, list[Row]], Row], ...] = (
    lambda rng, row, sound: _last_replaced(row, value=rng.choice(("", "  \n"))),
    lambda rng, row, sound: _last_replaced(row, value="and so on " * 4000),
    lambda rng, row, sound: _last_replaced(row, **{"from": "narrator"}),
    lambda rng, row, sound: _swapped(row),
    lambda rng, row, sound: _with_messages(row, row["conversations"][:-1]),
    lambda rng, row, sound: _with_messages(row, [row["conversations"][-2], *row["conversations"]]),
    lambda rng, row, sound: {**row, "score": rng.choice((None, math.nan, -1.0, 11.0))},
    lambda rng, row, sound: dict(rng.choice(sound)),
)


if __name__ == "__main__":
    write(make(), Path(sys.argv[1]))
