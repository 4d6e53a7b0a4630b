"""A dataset without some of its rows, as a file that retune reads."""

import json
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

from expectations.data.batches import batches

_KEPT = ("source", "score", "split_group")


def write_without(rows: Path, dropped: Collection[int], out: Path) -> int:
    """Write the rows of a Parquet file (`retune.records.Rows`), but for the `dropped` numbers, as JSON
    lines, and return how many. Raises FileExistsError; a file of this name appears whole or not at all.

    A message that must not be learnt has `weight` 0.
    """
    written = 0
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".retune-") as folder:
        part = Path(folder) / out.name
        with part.open("w", encoding="utf-8") as file:
            for batch in batches(rows):
                for row in batch.iter_rows(named=True):
                    if row["row"] not in dropped:
                        file.write(json.dumps(_line(row), ensure_ascii=False) + "\n")
                        written += 1
        out.hardlink_to(part)  # which takes nothing's place, as a rename would
    return written


def _line(row: dict[str, Any]) -> dict[str, Any]:
    told = {name: row[name] for name in _KEPT if row.get(name) is not None}
    return {"messages": [_message(turn) for turn in row["messages"]], **told}


def _message(turn: dict[str, Any]) -> dict[str, Any]:
    said = {"role": turn["role"], "content": turn["content"]}
    return said | ({"weight": 0} if turn.get("learn") is False else {})
