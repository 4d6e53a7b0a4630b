"""How the time of the gate's checks grows with the length of one hostile message.

    python -m benchmarks.hostile [--megabytes 1 5 10] [--only secrets masking]

Every string repeats what some pattern, detector or library here is slow on: each check is timed on
each, alone, in a process of its own time (CPU seconds). A check is linear if ten times the length
takes about ten times as long. Prints Markdown tables, the slowest strings of each check first, and
one line of JSON.
"""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import polars as pl

from expectations.data import credentials, personal
from expectations.data import messages as m
from expectations.data.excerpts import excerpts
from expectations.data.masking import masked
from expectations.data.messages import Rules, judge_messages
from retune.recipe import Validation
from tests.expectations.test_messages import HOSTILE, repeated

SHOWN = 2  # slowest strings of each check
RULES = Rules(Validation())
Check = Callable[[str], Any]


def _pattern(pattern: str) -> Check:
    """Look for a pattern, and replace it everywhere: the second starts anew after every match."""

    def check(text: str) -> None:
        column = pl.Series([text])
        column.str.contains(pattern)
        column.str.replace_all(pattern, "x")

    return check


def _messages(text: str) -> pl.DataFrame:
    table = {"row": [0], "place": [0], "role": ["user"], "content": [text]}
    return pl.DataFrame(table, schema_overrides={"row": pl.Int64, "place": pl.Int64})


def _excerpt(text: str) -> None:
    from retune.recipe.flaws import FLAWS

    message = [{"role": "wizard", "content": text}]
    batch = pl.DataFrame({"row": [0], "messages": [message], "problem": [text], "score": [1.0]})
    table = pl.DataFrame({"row": [0], "duplicate_of": [0], **{flaw: [True] for flaw in FLAWS}})
    excerpts(batch, table, RULES)


CHECKS: dict[str, Check] = {
    "all of a message's flaws": lambda text: judge_messages(_messages(text), RULES),
    "secrets": lambda text: credentials.has_secret(pl.Series([text])),
    "phone numbers (libphonenumber)": lambda text: personal.has_phone_number(pl.Series([text])),
    "cards, accounts, ids, addresses": lambda text: personal.numbers(pl.Series([text])),
    "mojibake (ftfy)": m._is_mojibake,
    "repetition (LZ4)": m.compression,
    "masking": lambda text: masked(pl.Series([text])),
    "excerpts of every flaw": _excerpt,
    "pattern: e-mail": _pattern(personal.EMAIL),
    "pattern: reserved e-mail": _pattern(personal.NOBODYS),
    "pattern: phone number": _pattern(personal.PHONE),
    "pattern: web address": _pattern(m.URL),
    "pattern: mojibake": _pattern(m.MOJIBAKE),
    "pattern: code": _pattern(m._CODE),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--megabytes", type=float, nargs="+", default=[1, 5, 10])
    parser.add_argument("--only", nargs="+", default=[""], help="words in the names of checks")
    arguments = parser.parse_args()
    run(arguments.megabytes, arguments.only)


def run(megabytes: list[float], only: list[str]) -> None:
    """Time every check on every string at every length, and print the slowest of each."""
    seconds = {
        check: {part: [timed(CHECKS[check], part, size) for size in megabytes] for part in HOSTILE}
        for check in CHECKS
        if any(word in check for word in only)
    }
    print("| check | string | " + " | ".join(f"{size:g} MB, CPU s" for size in megabytes), end="")
    print(f" | growth |\n|---|---|{'---:|' * (len(megabytes) + 1)}")
    for check, of_strings in seconds.items():
        slowest = sorted(of_strings, key=lambda part: -of_strings[part][-1])[:SHOWN]
        for part in slowest:
            cells = " | ".join(f"{spent:.2f}" for spent in of_strings[part])
            growth = of_strings[part][-1] / max(of_strings[part][0], 1e-3)
            print(f"| {check} | `{part.strip() or 'spaces'}` | {cells} | {growth:.1f} |")
    print(json.dumps({"megabytes": megabytes, "seconds": seconds}))


def timed(check: Check, part: str, megabytes: float) -> float:
    """Return the CPU seconds of a check on a message of `part` again and again."""
    text = repeated(part, int(megabytes * 1e6))
    start = time.process_time()
    check(text)
    return time.process_time() - start


if __name__ == "__main__":
    main()
