"""fetch: a Hub dataset at a pinned commit, or local files, as rows of one shape."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import task

from retune.config import Dataset, Model
from retune.records import Pins, Rows
from retune.sources import DATA_FORMATS, SourceError, local_path, pin_all
from retune.workspace import Step, building
from tasks.stage import stage

if TYPE_CHECKING:
    import pyarrow as pa

# ShareGPT's names and their common aliases; names not listed stay, for the gate to judge.
ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "function_response": "tool",
}


@task(
    retries=3,
    retry_delay_seconds=[2, 10, 30],
    retry_condition_fn=lambda _t, _r, state: _is_transient(state),
)
def pin_inputs(model: Model, dataset: Dataset) -> Pins:
    """Resolve the exact versions of dataset and base model; they stay the same to the end."""
    return pin_all(model, dataset)


@stage(
    name="fetch",
    retries=2,
    retry_delay_seconds=10,
    retry_condition_fn=lambda _t, _r, state: _is_transient(state),
)
def fetch(dataset: Dataset, pins: Pins, step: Step) -> Rows:
    """Read the dataset at its pinned version and write its rows in one shape."""
    import pyarrow.parquet as pq

    with building(step) as build:
        table = to_rows(
            read(dataset, pins.commit(pins.dataset), build.path / "cache"), dataset.source
        )
        pq.write_table(table, build.path / "rows.parquet")
        shutil.rmtree(build.path / "cache", ignore_errors=True)
        return build.finish(
            Rows, metrics={"rows": table.num_rows}, params={"dataset_version": pins.dataset}
        )


def read(dataset: Dataset, commit: str | None, cache: Path) -> "pa.Table":
    """Return the dataset's split as an Arrow table with its own columns.

    `commit` is the Hub commit to read, None for a local file; `cache` holds Arrow copies of local
    files meanwhile. Raises SourceError if the source cannot be read or is empty.
    """
    import datasets

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # its errors are raised as well
    path = local_path(dataset.source, "dataset.source")
    try:
        if path:
            arguments: dict[str, Any] = {
                "path": _format_of(path),
                "data_files": {dataset.split.partition("[")[0]: str(path)},
                "cache_dir": str(cache),
            }
        else:
            arguments = {"path": dataset.source, "name": dataset.subset, "revision": commit}
        rows = datasets.load_dataset(split=dataset.split, **arguments)
        table = rows.with_format("arrow")[:]
    except StopIteration:  # datasets' JSON reader on an empty file
        raise _no_rows(dataset) from None
    except (datasets.exceptions.DatasetGenerationError, ValueError, FileNotFoundError) as error:
        if "corresponds to no data" in str(error):
            raise _no_rows(dataset) from None
        raise SourceError(_why_unreadable(dataset, path, error)) from error
    if table.num_rows == 0:
        raise _no_rows(dataset)
    return table


def to_rows(table: "pa.Table", default_source: str) -> "pa.Table":
    """Bring ShareGPT, OpenAI or Alpaca columns into the shape of `retune.records.Rows`.

    Raises SourceError when no known columns are there.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    names = table.column_names
    if "conversations" in names or "messages" in names:
        column = "conversations" if "conversations" in names else "messages"
        messages = _from_turns(table[column].combine_chunks(), column)
    elif {"instruction", "output"} <= set(names):
        messages = _from_alpaca(table)
    else:
        raise SourceError(
            f"dataset.source: no usable columns among {names}; expected `conversations` (ShareGPT), "
            f"`messages` (OpenAI) or `instruction` and `output` (Alpaca)"
        )
    empty = pa.nulls(table.num_rows)
    source = table["source"] if "source" in names else empty
    score = table["score"] if "score" in names else empty
    try:
        score = score.cast(pa.float64())
    except pa.ArrowInvalid as error:
        raise SourceError(
            f"dataset.source: column `score` is not numeric ({error}); make it so"
        ) from None
    return pa.table(
        {
            "row": pa.array(range(table.num_rows), pa.int64()),
            "messages": messages,
            "source": pc.fill_null(source.cast(pa.string()), default_source),
            "score": score,
        }
    )


def _from_turns(turns: "pa.Array", column: str) -> "pa.Array":
    """Rename the keys and roles of ShareGPT (`from`, `value`) and OpenAI (`role`, `content`) turns."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_string(turns.type) or pa.types.is_large_string(turns.type):
        turns = _parse_json(turns, column)
    if not (pa.types.is_list(turns.type) or pa.types.is_large_list(turns.type)):
        raise SourceError(f"dataset.source: column `{column}` is {turns.type}, not a list of turns")
    flat = turns.flatten()
    keys = {field.name for field in flat.type} if pa.types.is_struct(flat.type) else set()
    pair = next((p for p in (("from", "value"), ("role", "content")) if keys.issuperset(p)), None)
    if pair is None:
        raise SourceError(
            f"dataset.source: a turn in `{column}` has {sorted(keys) or flat.type}; expected `from` and "
            f"`value` (ShareGPT) or `role` and `content` (OpenAI)"
        )
    role, content = (pc.struct_field(flat, name) for name in pair)
    if not pa.types.is_string(content.type) and not pa.types.is_large_string(content.type):
        raise SourceError(
            f"dataset.source: `{pair[1]}` in `{column}` is {content.type}; only text is supported"
        )
    known = pc.index_in(role, pa.array(list(ROLES), role.type))
    role = pc.coalesce(
        pa.array(list(ROLES.values()), pa.string()).take(known), role.cast(pa.string())
    )
    lengths = pc.fill_null(pc.list_value_length(turns), 0).to_numpy(zero_copy_only=False)
    return _lists(lengths, role, content.cast(pa.string()))


def _from_alpaca(table: "pa.Table") -> "pa.Array":
    """Make two or three turns of `instruction`, `input`, `output` and, if there, `system`."""
    roles, contents, lengths = [], [], []
    for row in table.to_pylist():
        question = "\n\n".join(part for part in (row["instruction"], row.get("input")) if part)
        turns = [("user", question), ("assistant", row["output"])]
        if row.get("system"):
            turns.insert(0, ("system", row["system"]))
        lengths.append(len(turns))
        roles += [role for role, _ in turns]
        contents += [content for _, content in turns]
    return _lists(lengths, roles, contents)


def _lists(lengths: Iterable[int], roles: Any, contents: Any) -> "pa.Array":
    import numpy as np
    import pyarrow as pa

    turns = pa.StructArray.from_arrays(
        [_strings(roles), _strings(contents)], names=["role", "content"]
    )
    return pa.ListArray.from_arrays(
        np.concatenate([[0], np.cumsum(lengths)]).astype("int32"), turns
    )


def _strings(values: Any) -> "pa.Array":
    import pyarrow as pa

    return values if isinstance(values, pa.Array) else pa.array(values, pa.string())


def _parse_json(texts: "pa.Array", column: str) -> "pa.Array":
    """CSV files carry conversations as JSON text."""
    import pyarrow as pa

    parsed = []
    for number, text in enumerate(texts.to_pylist()):
        try:
            parsed.append(json.loads(text) if text else None)
        except json.JSONDecodeError as error:
            raise SourceError(
                f"dataset.source: `{column}` of row {number} is not JSON ({error}): {text!r:.80}"
            ) from None
    return pa.array(parsed)


def _format_of(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in DATA_FORMATS:
        raise SourceError(
            f"dataset.source: cannot read {path.name!r}; use one of {', '.join(DATA_FORMATS)}"
        )
    return DATA_FORMATS[suffix]


def _no_rows(dataset: Dataset) -> SourceError:
    return SourceError(
        f"dataset.source: {dataset.source} has no rows in split {dataset.split!r}; choose another split "
        f"or file"
    )


def _why_unreadable(dataset: Dataset, path: Path | None, error: Exception) -> str:
    """Say what is wrong with a source, naming the line where a JSONL file breaks."""
    if isinstance(error, SourceError):
        return str(error)
    if path and path.suffix.lower() == ".jsonl":
        with path.open(encoding="utf-8", errors="replace") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    json.loads(line)
                except json.JSONDecodeError as problem:
                    text = f"{line.strip()!r:.80}"
                    return f"dataset.source: {path} line {number} is not JSON ({problem}): {text}"
    cause = error.__cause__ or error
    reason = str(cause).strip().partition("\n")[0] or type(cause).__name__
    return f"dataset.source: cannot read {dataset.source}: {reason}"


def _is_transient(state: Any) -> bool:
    """Retry what the network did; a wrong id or an unreadable file stays wrong."""
    return isinstance(state.result(raise_on_failure=False), (ConnectionError, TimeoutError))
