"""The most memory that the gate and the format take, each in a process of its own.

python -m benchmarks.memory [--rows 1000000]
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks import made_up

PARTS = ("gate", "format")
EVERY = 0.05  # seconds between two looks at a process


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--part", choices=PARTS, help="do this part here, in --folder")
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    if arguments.part:
        do(arguments.part, arguments.rows, arguments.folder)
    else:
        run(arguments.rows)


def run(count: int) -> None:
    """Measure both parts and print a table and one line of JSON."""
    made_up.tokenizer()
    size = made_up.rows(count).stat().st_size
    print(f"{count:,} rows, {size / 2**30:.2f} GiB as Parquet\n")
    print("| part | peak RSS, GiB | s |\n|---|---:|---:|")
    peaks = {}
    with tempfile.TemporaryDirectory() as folder:
        for part in PARTS:
            peaks[part], seconds = peak(part, count, folder)
            print(f"| {part} | {peaks[part] / 2**30:.2f} | {seconds:.0f} |", flush=True)
    print(json.dumps({"rows": count, "peak_bytes": peaks}))


def peak(part: str, count: int, folder: str) -> tuple[int, float]:
    """Do one part in a child process; return the most bytes it held, and its seconds."""
    command = ["-m", "benchmarks.memory", "--part", part, "--rows", str(count), "--folder", folder]
    started, most = time.perf_counter(), 0
    child = psutil.Popen([sys.executable, *command])
    while child.poll() is None:
        try:
            most = max(most, child.memory_info().rss)
        except psutil.NoSuchProcess:
            break
        time.sleep(EVERY)
    assert child.wait() == 0, f"{part} failed"
    return most, time.perf_counter() - started


def do(part: str, count: int, folder: Path) -> None:
    """Run the gate on `count` rows into `folder`, or the format on what the gate left there."""
    from expectations.data.messages import Rules
    from retune.chat import special_tokens
    from retune.recipe import Validation
    from tasks.format.task import write_chats
    from tasks.validate.gate import gate

    tokenizer = made_up.tokenizer()
    if part == "gate":
        rules = Rules(Validation(), special_tokens(tokenizer), made_up.prompts())
        gate(made_up.rows(count), rules, folder)
    else:
        write_chats(folder / "rows.parquet", tokenizer, 0.02, folder)


if __name__ == "__main__":
    main()
