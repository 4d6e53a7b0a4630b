"""The texts in a benchmark file; as a script the confined child of `tasks.validate.prompts`."""

import json
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING

from retune.child import Event
from retune.confined import ConfinedJob, confined, require_memory
from retune.sources import SourceError

if TYPE_CHECKING:
    import polars as pl

SETTING = "validation.decontamination.files"


class PromptsJob(ConfinedJob):
    """The benchmark file to read, and the JSON file that its texts go to."""

    file: Path
    texts: Path


def work(job: PromptsJob) -> Event:
    prompts = texts(job.file)
    job.texts.write_text(json.dumps(prompts), encoding="utf-8")
    return {"texts": len(prompts)}


def texts(path: Path) -> list[str]:
    """Return the lines of a .txt, the texts of all columns of any other format. Raises SourceError
    for a file that is missing, cannot be read or has none."""
    prompts = _texts(path)
    if not prompts:
        raise SourceError(f"{SETTING}: {path} has no texts; name a file with evaluation prompts")
    return prompts


def _texts(path: Path) -> list[str]:
    import polars as pl

    readers: dict[str, Callable[[BufferedReader], pl.DataFrame]] = {
        ".jsonl": pl.read_ndjson,
        ".json": pl.read_json,
        ".parquet": pl.read_parquet,
        ".csv": pl.read_csv,
        ".arrow": pl.read_ipc_stream,
    }
    kind = path.suffix.lower()
    if kind not in (*readers, ".txt"):
        raise SourceError(
            f"{SETTING}: cannot read {path.name!r}; use one of {', '.join([*readers, '.txt'])}"
        )
    try:
        if kind == ".txt":
            lines = path.read_text(encoding="utf-8").splitlines()
            return [line for line in lines if line.strip()]
        with path.open("rb") as file:  # Polars takes a path for a pattern
            return _strings(readers[kind](file))
    except FileNotFoundError:
        raise SourceError(
            f"{SETTING}: nothing is at {str(path)!r} (looked in {Path.cwd()}); correct the path"
        ) from None
    except (pl.exceptions.PolarsError, UnicodeDecodeError, OSError) as error:
        raise SourceError(f"{SETTING}: cannot read {path}: {error}") from None


def _strings(frame: "pl.DataFrame") -> list[str]:
    """Return the texts of all columns, those inside lists (choices, turns) and records included."""
    import polars as pl

    strings: list[str] = []
    for column in frame:
        if isinstance(column.dtype, pl.List):
            strings += _strings(column.explode().to_frame())
        elif isinstance(column.dtype, pl.Struct):
            strings += _strings(column.struct.unnest())
        elif column.dtype == pl.String:
            require_memory(int(column.str.len_bytes().cast(pl.Int64).sum()))
            strings += column.drop_nulls().to_list()
    return strings


if __name__ == "__main__":
    confined(PromptsJob, work)
