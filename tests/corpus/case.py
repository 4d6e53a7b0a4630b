"""What a case of the corpus is: a dataset as a file, and what the line must make of it."""

import csv
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Literal, NamedTuple

from retune.recipe import Validation
from tests.corpus.text import Row

Rows = Callable[[Random], list[Row]]  # a dataset


class Form(NamedTuple):
    """A file format: its suffix, and rows to bytes."""

    suffix: str
    encode: Callable[[list[Row]], bytes]


def jsonl(rows: list[Row], **how: Any) -> bytes:
    how = {"ensure_ascii": False, **how}
    return "".join(json.dumps(row, **how) + "\n" for row in rows).encode()


def parquet(rows: list[Row]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def comma_separated(rows: list[Row]) -> bytes:
    """Lists become JSON text."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]))
    writer.writeheader()
    for row in rows:
        cells = {k: json.dumps(v) if isinstance(v, list) else v for k, v in row.items()}
        writer.writerow(cells)
    return buffer.getvalue().encode()


JSONL = Form(".jsonl", jsonl)
ESCAPED = Form(".jsonl", lambda rows: jsonl(rows, ensure_ascii=True))
JSON = Form(".json", lambda rows: json.dumps(rows).encode())
PARQUET = Form(".parquet", parquet)
CSV = Form(".csv", comma_separated)


@dataclass(frozen=True)
class Case:
    """A dataset, and what the line must make of it.

    Bad: `trips` is the expectation that must fail, `rejected` whether the run ends there; or the
    reader refuses the file with a SourceError that holds the words `refused` (in any case). Good:
    neither is set, nothing may fail. `dataset` and `settings` are changes to the sections `dataset` and
    `validation`, `prompts`
    is `evaluation.prompts`, `reference` the scores of the last accepted run, `beside` files (such as
    benchmarks, which are then `decontamination.files`) to be written next to the dataset.
    """

    name: str
    trips: str
    rows: Rows
    settings: Mapping[str, Any] = field(default_factory=dict)
    dataset: Mapping[str, Any] = field(default_factory=dict)
    rejected: bool = True
    refused: str = ""
    stage: Literal["fetch", "validate", "format"] = "validate"
    prompts: tuple[str, ...] = ()
    reference: tuple[float, ...] = ()
    beside: Mapping[str, Callable[[], bytes]] = field(default_factory=dict)
    form: Form = JSONL

    def write(self, folder: Path) -> Path:
        """Write the dataset, and the files beside it, into `folder`; return the dataset's path."""
        for name, make in self.beside.items():
            (folder / name).write_bytes(make())
        path = folder / f"{self.name}{self.form.suffix}"
        path.write_bytes(self.form.encode(self.rows(Random(self.name))))
        return path

    def validation(self, folder: Path) -> Validation:
        """Return the section `validation` for the dataset that was written into `folder`."""
        files = [str(folder / name) for name in self.beside]
        benchmarks = {**self.settings.get("decontamination", {}), "files": files}
        return Validation(**{**self.settings, "decontamination": benchmarks})
