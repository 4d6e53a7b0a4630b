"""The GGUF files of one run side by side: a table and a chart, in MLflow and in Prefect."""

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

from prefect.artifacts import create_image_artifact, create_table_artifact

from expectations.verdicts import Verdict
from retune.escaping import table
from retune.logged_files import log_file
from retune.plots import Point, size_and_quality
from retune.records import Gguf
from retune.temporary import temporary_folder
from retune.tracking import Run
from tasks.stage import show

STAGE = "quantize"
CHART, TABLE = "size_and_quality.png", "gguf_files.json"
MEASURES = (
    *("bits_per_weight", "perplexity", "perplexity_ratio", "kl_divergence", "same_top_token"),
    *("exact_match", "stopped", "tokens_per_second"),
)


def report(files: list[Gguf], reasons: Mapping[str, Sequence[Verdict]], run: Run) -> None:
    """Log table and chart of the quants in `files` to the run's own artifacts and to Prefect, and each
    file as a model of the run.

    `reasons` are, by a file's name, the verdicts for which it does not ship.
    """
    rows = [row(gguf, reasons[gguf.file]) for gguf in files]
    for gguf in files:
        log_file(run, gguf, ships=not reasons[gguf.file])
    show(
        create_table_artifact,
        table=table(rows),
        key="gguf-files",
        description="The GGUF files of this run",
    )
    with temporary_folder() as folder:
        points = [point(gguf, ships=not reasons[gguf.file]) for gguf in files]
        size_and_quality([place for place in points if place], folder / CHART)
        (folder / TABLE).write_text(json.dumps(rows, indent=1))
        run.log_files(folder, (CHART, TABLE), STAGE)
        picture = base64.b64encode((folder / CHART).read_bytes()).decode()
    show(
        create_image_artifact,
        image_url=f"data:image/png;base64,{picture}",
        key="gguf-chart",
        description="Size and quality",
    )


def row(gguf: Gguf, reasons: Sequence[Verdict]) -> dict[str, Any]:
    """Return one row of the table; a file that does not load has few measures."""
    return {
        "file": gguf.file,
        "method": gguf.method,
        "bytes": gguf.bytes,
        **{name: gguf.metrics.get(name) for name in MEASURES},
        "sha256": gguf.sha256,
        "ships": not reasons,
        "reason": "; ".join(map(str, reasons)),
    }


def point(gguf: Gguf, ships: bool) -> Point | None:
    """Return where a quant stands in the chart; None for the source and for what does not load."""
    kl = gguf.metrics.get("kl_divergence")
    return None if kl is None else Point(gguf.method, gguf.bytes, kl, ships)
