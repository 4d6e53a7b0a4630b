"""How fast the gate and the format are, against the same checks row by row, in one run.

    python -m benchmarks.gate [--rows 100000] [--row-by-row 10000] [--repeats 3]

Both are measured in turn, in one process, after a turn on a few rows that is not counted. The loop
(benchmarks/row_by_row.py) takes the same time for every row, so it is given the first rows only.
Verdicts are compared before anything is measured. Prints Markdown tables and one line of JSON.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple
from unittest.mock import patch

import polars as pl

from benchmarks import made_up, row_by_row
from expectations.data.features import features, with_scores
from expectations.data.messages import Rules
from retune.chat import special_tokens
from retune.recipe import Validation
from retune.recipe.flaws import FLAWS
from tasks.validate import screening

HELD_OUT_SHARE = 0.02
WARM_UP = 300  # rows
CHECKS, FILES, FORMAT = "features", "expectations, report, files", "format"
PARTS = (CHECKS, FILES, FORMAT)
FEW = 0.1  # of the near duplicates may differ: they are estimated with different hash functions


class Turn(NamedTuple):
    """One run over all rows: seconds by part, CPU seconds in all, and what came out."""

    seconds: dict[str, float]
    cpu: float
    outcome: tuple[int, int, int]  # training rows, their tokens, held-out rows
    checks: dict[str, float]  # the seconds of the single checks, where they are told apart

    @property
    def total(self) -> float:
        return sum(self.seconds.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=100_000, help="rows that the gate judges")
    parser.add_argument("--row-by-row", type=int, default=10_000, help="rows for the loop")
    parser.add_argument("--repeats", type=int, default=3, help="times each is measured")
    arguments = parser.parse_args()
    run(arguments.rows, min(arguments.row_by_row, arguments.rows), arguments.repeats)


def run(count: int, looped: int, repeats: int, flawed_share: float = made_up.FLAWED_SHARE) -> None:
    """Compare the verdicts on the first `looped` rows, then measure, and print both."""
    tokenizer = made_up.tokenizer()
    rules = Rules(Validation(), special_tokens(tokenizer), made_up.prompts())
    few, some, many = (made_up.rows(n, flawed_share) for n in (WARM_UP, looped, count))
    counts = compared(some, rules)
    ours(few, rules, tokenizer)
    loop(few, rules, tokenizer)
    turns: dict[str, list[Turn]] = {"ours": [], "loop": []}
    for _ in range(repeats):
        turns["ours"].append(ours(many, rules, tokenizer))
        turns["loop"].append(loop(some, rules, tokenizer))
    if count == looped:
        assert turns["ours"][0].outcome == turns["loop"][0].outcome, turns
    print_speeds(turns, count, looped)
    print_verdicts(counts, looped)
    print(json.dumps({"rows": count, "row_by_row": looped, "counts": counts, **_record(turns)}))


def compared(rows: Path, rules: Rules) -> dict[str, tuple[int, int, int]]:
    """Return for each flaw how many rows have it by us, by the loop, and by one of them only.

    Raises AssertionError when they differ, but for a FEW near duplicates.
    """
    with tempfile.TemporaryDirectory() as folder:
        table = pl.concat(features(rows, rules, Path(folder)))
    table = with_scores(table, rules.config)
    verdicts = row_by_row.judge(rows, rules, row_by_row.Clock())
    counts = {}
    for flaw in FLAWS:
        mine = set(table.filter(table[flaw])["row"])
        theirs = {verdict.row for verdict in verdicts if flaw in verdict.flaws}
        counts[flaw] = len(mine), len(theirs), len(mine ^ theirs)
        few = 1 + FEW * len(mine) if flaw == "near_duplicate" else 0
        assert len(mine ^ theirs) <= few, (flaw, sorted(mine ^ theirs)[:10])
    return counts


def ours(rows: Path, rules: Rules, tokenizer: Any) -> Turn:
    """Run the gate, and the format on what it accepts."""
    from tasks.format.chats import write_chats
    from tasks.validate.gate import gate

    clock = row_by_row.Clock()
    cpu = time.process_time()
    with tempfile.TemporaryDirectory() as name, _noticed(clock):
        folder = Path(name)
        gate(rows, rules, folder)
        clock.lap(FILES)
        lengths, held_out, _ = write_chats(
            folder / "rows.parquet", tokenizer, HELD_OUT_SHARE, folder
        )
        clock.lap(FORMAT)
    outcome = len(lengths), int(lengths.sum()), held_out
    return Turn(dict(clock.seconds), time.process_time() - cpu, outcome, {})


def loop(rows: Path, rules: Rules, tokenizer: Any) -> Turn:
    """Do the same row by row."""
    clock, checks = row_by_row.Clock(), row_by_row.Clock()
    cpu = time.process_time()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        verdicts = row_by_row.judge(rows, rules, checks)
        clock.lap(CHECKS)
        accepted = row_by_row.write_rows(rows, verdicts, rules, folder)
        clock.lap(FILES)
        lengths, held_out = row_by_row.write_chats(accepted, tokenizer, HELD_OUT_SHARE, folder)
        clock.lap(FORMAT)
    outcome = len(lengths), sum(lengths), held_out
    cpu = time.process_time() - cpu
    return Turn(dict(clock.seconds), cpu, outcome, dict(checks.seconds))


@contextmanager
def _noticed(clock: row_by_row.Clock) -> Iterator[None]:
    """Let the clock know when the gate has its features: it is one function to its caller."""

    def timed(*arguments: Any) -> Any:
        lines = [*features(*arguments)]
        clock.lap(CHECKS)
        return lines

    with patch.object(screening, "features", timed):
        yield


def print_speeds(turns: dict[str, list[Turn]], count: int, looped: int) -> None:
    """Print rows a second of every part, and how many times as fast ours is."""
    print(f"Ours: {count:,} rows in {_middle(turns['ours'], lambda t: t.total):.1f} s. ", end="")
    print(f"Row by row: {looped:,} rows in {_middle(turns['loop'], lambda t: t.total):.1f} s.\n")
    print("| part | ours, s | ours, rows/s | row by row, rows/s | times as fast |")
    print(f"|---|{'---:|' * 4}")
    for part in (*PARTS, "all", "all, by CPU seconds"):
        seconds, mine, theirs = _rates(turns, part, count, looped)
        print(f"| {part} | {seconds:.1f} | {mine:,.0f} | {theirs:,.0f} | {mine / theirs:.1f} |")
    print("\n| checks of the loop | ms a row |\n|---|---:|")
    for check in turns["loop"][0].checks:
        spent = _middle(turns["loop"], lambda turn, check=check: turn.checks[check])
        print(f"| {check} | {1000 * spent / looped:.2f} |")


def print_verdicts(counts: dict[str, tuple[int, int, int]], looped: int) -> None:
    print(f"\n| flaw, in {looped:,} rows | ours | row by row | rows that differ |")
    print(f"|---|{'---:|' * 3}")
    for flaw, (mine, theirs, different) in counts.items():
        print(f"| {flaw} | {mine:,} | {theirs:,} | {different} |")
    print()


def _rates(
    turns: dict[str, list[Turn]], part: str, count: int, looped: int
) -> tuple[float, float, float]:
    """Return our seconds, our rows a second and the loop's, each the median of the turns."""

    def spent(turn: Turn) -> float:
        if part in PARTS:
            return turn.seconds[part]
        return turn.total if part == "all" else turn.cpu

    mine, theirs = (_middle(turns[name], spent) for name in ("ours", "loop"))
    return mine, count / mine, looped / theirs


def _middle(turns: list[Turn], of: Callable[[Turn], float]) -> float:
    return median(of(turn) for turn in turns)


def _record(turns: dict[str, list[Turn]]) -> dict[str, Any]:
    return {name: [turn._asdict() for turn in some] for name, some in turns.items()}


if __name__ == "__main__":
    main()
