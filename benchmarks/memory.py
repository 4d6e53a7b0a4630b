"""How fast the gate and the format are, and the most memory that they take, by the number of rows.

    python -m benchmarks.memory [--rows 100000 1000000] [--bytes 2000]

Each part is a process of its own; imports, the report and its charts count. --rows takes any numbers;
10,000,000 rows of 2,000 bytes on average take 13 GB as Parquet, and as much again for what is accepted,
while --bytes 250 shows what a row costs whatever it says. Memory is RSS, pages of mapped files included.
Prints a Markdown table and one line of JSON.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import psutil

from benchmarks import made_up

PARTS = ("gate", "format")
EVERY = 0.05  # seconds between two looks at a process


class Cost(NamedTuple):
    """What a part took of so many rows: the most bytes that its process held, and its seconds."""

    part: str
    rows: int
    peak: int
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument(
        "--bytes", type=int, default=made_up.MEAN_BYTES, help="of a row, in the mean"
    )
    parser.add_argument("--parts", choices=PARTS, nargs="+", default=PARTS)
    parser.add_argument("--here", choices=PARTS, help="do this part in this process, in --folder")
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    if arguments.here:
        do(arguments.here, arguments.rows[0], arguments.bytes, arguments.folder)
    else:
        run(arguments.rows, arguments.bytes, arguments.parts)


def run(counts: list[int], mean_bytes: int, parts: list[str]) -> None:
    """Measure the parts for each number of rows and print a table and one line of JSON."""
    made_up.tokenizer()
    costs = []
    print(
        "| rows | Parquet, GiB | part | peak RSS, GiB | s | rows/s |\n|---:|---:|---|---:|---:|---:|"
    )
    for count in counts:
        size = made_up.rows(count, mean_bytes=mean_bytes).stat().st_size
        with tempfile.TemporaryDirectory() as folder:
            for part in parts:
                cost = measured(part, count, mean_bytes, folder)
                costs.append(cost)
                print(
                    f"| {count:,} | {size / 2**30:.2f} | {part} | {cost.peak / 2**30:.2f} | "
                    f"{cost.seconds:.0f} | {count / cost.seconds:,.0f} |",
                    flush=True,
                )
    print(json.dumps({"bytes": mean_bytes, "costs": [cost._asdict() for cost in costs]}))


def measured(part: str, count: int, mean_bytes: int, folder: str) -> Cost:
    """Do one part in a child process."""
    command = ["-m", "benchmarks.memory", "--here", part, "--folder", folder]
    command += ["--rows", str(count), "--bytes", str(mean_bytes)]
    started, most = time.perf_counter(), 0
    child = psutil.Popen([sys.executable, *command])
    while child.poll() is None:
        try:
            most = max(most, child.memory_info().rss)
        except psutil.NoSuchProcess:
            break
        time.sleep(EVERY)
    assert child.wait() == 0, f"{part} failed"
    return Cost(part, count, most, time.perf_counter() - started)


def do(part: str, count: int, mean_bytes: int, folder: Path) -> None:
    """Run the gate on `count` rows into `folder`, or the format on what the gate left there."""
    from expectations.data.messages import Rules
    from retune.chat import special_tokens
    from retune.recipe import Validation
    from tasks.format.chats import write_chats
    from tasks.validate.gate import gate

    tokenizer = made_up.tokenizer()
    if part == "gate":
        rules = Rules(Validation(), special_tokens(tokenizer), made_up.prompts())
        gate(made_up.rows(count, mean_bytes=mean_bytes), rules, folder)
    else:
        write_chats(folder / "rows.parquet", tokenizer, 0.02, folder)


if __name__ == "__main__":
    main()
