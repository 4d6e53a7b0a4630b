"""What it takes to judge a dataset file: reading it, and all of the data gate, in a process of its own.

    python -m benchmarks.validate [--only sharegpt long] [--sharegpt FILE] [--made FOLDER] [--repeats 3]

No classifier is asked and no network is used, but for real conversations that are neither in a file named
by --sharegpt nor where `make realsets` puts them. Rows that are made up are kept in the user's cache, or
in the folder named by --made. Imports count, as they do for `retune validate`. CPU seconds are those of
all cores, user and system. Prints a Markdown table and one line of JSON, with the machine's cores.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks import made_up
from tests import real_sets


class Cost(NamedTuple):
    """What a process took: CPU and wall-clock seconds, and the most bytes that it held."""

    cpu: float
    wall: float
    peak: int


def sharegpt() -> Path:
    return real_sets.sharegpt_lines()


def finetome(count: int) -> Path:
    """Return a file of rows like FineTome's."""

    def link(path: Path) -> None:
        path.symlink_to(made_up.rows(count))

    return made_up._cached(f"rows-{count}.parquet", link)


def long_rows(count: int, size: int) -> Path:
    """Return a file of rows with answers of `size` bytes."""
    return made_up._cached(f"long-{count}-{size}.jsonl", lambda path: _write(path, count, size))


def prompts() -> Path:
    """Return a file of evaluation prompts: to make them up is no part of judging."""
    return made_up._cached(
        "prompts.json", lambda path: path.write_text(json.dumps(made_up.prompts()))
    )


def _write(path: Path, count: int, size: int) -> None:
    writer = made_up.Writer(random.Random(f"{made_up.SEED} long"))
    with path.open("w") as file:
        for _ in range(count):
            messages = [
                {"role": "user", "content": writer.prose(200)},
                {"role": "assistant", "content": writer.prose(size)},
            ]
            file.write(json.dumps({"messages": messages, "score": 3.2}) + "\n")


SETS: dict[str, Callable[[], Path]] = {
    "sharegpt": sharegpt,
    "long": lambda: long_rows(5000, 20_000),
    "longer": lambda: long_rows(10_000, 60_000),
    "finetome": lambda: finetome(100_000),
    "million": lambda: finetome(1_000_000),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=SETS, default=[*SETS][:-1])
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--sharegpt", type=Path, help="real conversations, as JSON lines")
    parser.add_argument("--made", type=Path, help="folder for rows that are made up")
    parser.add_argument("--judge", type=Path, help="judge this file here, and nothing else")
    arguments = parser.parse_args()
    if arguments.judge:
        judge(arguments.judge)
        return
    if arguments.sharegpt and not arguments.sharegpt.is_file():
        parser.error(f"--sharegpt: there is no file {arguments.sharegpt}")
    if arguments.made:
        os.environ["XDG_CACHE_HOME"] = str(arguments.made.resolve())
    given = {"sharegpt": lambda: arguments.sharegpt} if arguments.sharegpt else {}
    run({name: (SETS | given)[name] for name in arguments.only}, arguments.repeats)


def run(sets: dict[str, Callable[[], Path]], repeats: int) -> None:
    """Judge each set in a process of its own, and print what that took."""
    print("| rows | MB | CPU s | wall s | rows/CPU s | rows/s | peak RSS, GiB |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    record: dict[str, object] = {"cores": len(os.sched_getaffinity(0))}
    prompts()
    for name, make in sets.items():
        path = make()
        rows = rows_in(path)
        costs = [cost(path) for _ in range(repeats)]
        cpu, wall, peak = (median(values) for values in zip(*costs, strict=True))
        size = path.stat().st_size / 1e6
        print(
            f"| {name}: {rows:,} | {size:,.0f} | {cpu:.1f} | {wall:.1f} | {rows / cpu:,.0f} "
            f"| {rows / wall:,.0f} | {peak / 2**30:.2f} |",
            flush=True,
        )
        record[name] = {"rows": rows, "turns": [one._asdict() for one in costs]}
    print(json.dumps(record))


def rows_in(path: Path) -> int:
    """Return how many rows a file has."""
    import polars as pl

    if path.suffix == ".parquet":
        return int(pl.scan_parquet(path).select(pl.len()).collect().item())
    with path.open("rb") as file:
        return sum(1 for line in file if line.strip())


def cost(path: Path) -> Cost:
    """Judge a file in a child process."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", "benchmarks.validate", "--judge", str(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(cpu, wall, int(done.stdout.split()[-1]))


def judge(path: Path) -> None:
    """Read a file as fetch does, run the gate on its rows, and print the most bytes held."""
    from expectations.data.messages import Rules
    from retune.recipe import Dataset, Validation
    from tasks.fetch.batches import to_rows
    from tasks.fetch.reading import read
    from tasks.fetch.writing import write_rows
    from tasks.validate.gate import gate

    dataset = Dataset(source=str(path))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = to_rows(read(dataset, None, folder / "cache"), dataset.source)
        write_rows(rows, folder / "fetched.parquet")
        rules = Rules(
            Validation(score_required=False), (), tuple(json.loads(prompts().read_text()))
        )
        gate(folder / "fetched.parquet", rules, folder)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


if __name__ == "__main__":
    main()
