"""The GGUF files of one run side by side: a table and a chart, in MLflow and in Prefect."""

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

from expectations.verdicts import Verdict
from flows.replaced import replace
from retune.escaping import markdown
from retune.logged_files import log_file
from retune.measures import ABOUT_FILES, format_bytes, measure
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
# On Prefect's page, which is narrow.
SHOWN = ("bits_per_weight", "perplexity", "kl_divergence", "same_top_token", "exact_match")


def report(files: list[Gguf], reasons: Mapping[str, Sequence[Verdict]], run: Run) -> None:
    """Log table and chart of the quants in `files` to the run's own artifacts and to Prefect, and each
    file as a model of the run.

    `reasons` are, by a file's name, the verdicts for which it does not ship.
    """
    rows = [row(gguf, reasons[gguf.file]) for gguf in files]
    for gguf in files:
        log_file(run, gguf, ships=not reasons[gguf.file])
    show(
        replace,
        key="gguf-files",
        markdown=page(files, reasons),
        description="The GGUF files of this run",
    )
    with temporary_folder() as folder:
        points = [point(gguf, ships=not reasons[gguf.file]) for gguf in files]
        size_and_quality([place for place in points if place], folder / CHART)
        (folder / TABLE).write_text(json.dumps(rows, indent=1))
        run.log_files(folder, (CHART, TABLE), STAGE)
        picture = base64.b64encode((folder / CHART).read_bytes()).decode()
    show(
        replace,  # of an image artifact Prefect's page shows the whole address as well
        key="gguf-chart",
        markdown=f"![Size and quality](data:image/png;base64,{picture})",
        description="Size and quality",
    )


def page(files: Sequence[Gguf], reasons: Mapping[str, Sequence[Verdict]]) -> str:
    """Return the files in Markdown: how many ship, their measures, and why one does not."""
    ship = sum(not reasons[gguf.file] for gguf in files)
    names = [name for name in SHOWN if any(name in gguf.metrics for gguf in files)]
    heads = ["file", "ships", "size", *(measure(name).heading for name in names)]
    lines = [f"| {' | '.join(heads)} |", f"|---|---|{'---:|' * (len(heads) - 2)}"]
    for gguf in files:
        cells = [
            measure(name).number(gguf.metrics[name]) if name in gguf.metrics else ""
            for name in names
        ]
        ships = "no" if reasons[gguf.file] else "yes"
        lines.append(f"| {' | '.join([gguf.method, ships, format_bytes(gguf.bytes), *cells])} |")
    withheld = [
        f"- {gguf.method}: {markdown('; '.join(map(str, reasons[gguf.file])))}"
        for gguf in files
        if reasons[gguf.file]
    ]
    parts = [f"**{ship} of {len(files)} files ship**", "\n".join(lines), "\n".join(withheld)]
    parts.append(f"*{markdown(ABOUT_FILES)}*")
    return "\n\n".join(filter(None, parts))


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
