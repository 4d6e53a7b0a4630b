"""What a run did, in a few short tables: for the terminal and for Prefect's artifacts."""

from collections.abc import Iterable, Mapping, Sequence

from pydantic import BaseModel
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from expectations.verdicts import Verdict
from retune.escaping import markdown, visible
from retune.measures import ABOUT_FILES, format_bytes, is_of_suite, measure, side_by_side, title
from retune.outputs import Output
from retune.recipe import Recipe
from retune.records import Adapter, Gguf, Published, Rows, Scores, Selection
from retune.tracking import Run


class Grid(BaseModel):
    """One table of text: the first column is left-aligned, the others right, unless they hold
    `sentences`; `note` stands below it."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    note: str = ""
    sentences: bool = False

    def markdown(self) -> str:
        rest = "---" if self.sentences else "---:"
        rule = "|" + "|".join(["---", *[rest] * (len(self.columns) - 1)]) + "|"
        rows = (self.columns, *self.rows)
        lines = ["| " + " | ".join(map(markdown, row)) + " |" for row in rows]
        note = ["", f"*{markdown(self.note)}*"] if self.note else []
        return "\n".join([f"### {markdown(self.title)}", "", lines[0], rule, *lines[1:], *note])

    def rich(self) -> Table:
        title = Text(visible(self.title), style="bold")
        table = Table(
            title=title,
            title_justify="left",
            box=None,
            pad_edge=False,
            caption=Text(visible(self.note), style="dim") if self.note else None,
            caption_justify="left",
        )
        for number, column in enumerate(self.columns):
            head = Text(visible(column))
            table.add_column(
                head, justify="right" if number and not self.sentences else "left", overflow="fold"
            )
        for row in self.rows:
            table.add_row(*(Text(visible(cell)) for cell in row))
        return table


class Summary(BaseModel):
    """The tables of one run."""

    recipe: str
    run_id: str
    reused: int
    stages: int
    grids: list[Grid]
    ending: str = "Completed"
    reason: str = ""

    def markdown(self) -> str:
        """Return the tables for the run's page, which begins with the reason."""
        return "\n\n".join(grid.markdown() for grid in self.grids if grid.title != self.ending)

    def rich(self) -> RenderableType:
        parts: list[RenderableType] = []
        for grid in self.grids:
            parts += ["", grid.rich()]
        if self.stages and self.reused == self.stages:
            parts += ["", f"Nothing had changed: all {self.stages} outputs were reused."]
        return Group(*parts)


def summarise(
    recipe: Recipe,
    run: Run,
    outputs: list[Output],
    reasons: Mapping[str, Sequence[Verdict]],
    published: Published | None,
    ending: str,
    reason: str,
) -> Summary:
    """Collect what was trained, how well, what ships, and how long each stage took.

    `reasons` are, by a GGUF file's name, the verdicts for which it does not ship; `ending` and `reason`
    are what became of the candidate.
    """
    by_kind = {type(output): output for output in outputs if not isinstance(output, Rows | Gguf)}
    files = [output for output in outputs if isinstance(output, Gguf)]
    rows = [output for output in outputs if isinstance(output, Rows)]
    produced = [*outputs, *([published] if published else [])]
    grids = [
        _trained(recipe, rows[-1], by_kind[Adapter]),
        *_weights(by_kind.get(Selection)),
        *_scores(by_kind[Scores]),
        *_files(files, reasons),
        _stages(produced, run),
    ]
    if published:
        links = [[repo, url] for repo, url in published.commits.items()]
        grids.append(Grid(title="Published", columns=["repository", "commit"], rows=links))
    return Summary(
        recipe=recipe.name,
        run_id=run.id,
        reused=sum(run.reused(output) for output in produced),
        stages=len(produced),
        grids=[*grids, _why(ending, reason)],
        ending=ending,
        reason=reason,
    )


def _why(ending: str, reason: str) -> Grid:
    first, *further = reason.split("\n")
    rows = [["why", first], *(["", line.removeprefix("- ")] for line in further)]
    return Grid(title=ending, columns=["", ""], rows=rows)


def _trained(recipe: Recipe, accepted: Output, adapter: Output) -> Grid:
    metrics = accepted.metrics
    rows = [
        ["base model", recipe.model.base],
        ["dataset", recipe.dataset.title],
        ["rows accepted", f"{metrics['accepted']:,.0f} of {metrics['rows']:,.0f}"],
        *([title(name), measure(name).text(value)] for name, value in adapter.metrics.items()),
    ]
    return Grid(title=f"Trained: {recipe.name}", columns=["", ""], rows=rows)


def _weights(selection: Output | None) -> list[Grid]:
    """Return what the adapter is on either weights, if it was measured on both."""
    if not isinstance(selection, Selection) or not selection.metrics:
        return []
    metrics = selection.metrics
    names = list(dict.fromkeys(name.partition("/")[0] for name in metrics))
    rows = [
        [
            title(name),
            *(
                measure(name).number(metrics[of]) if (of := f"{name}/{weights}") in metrics else ""
                for weights in ("trained", "16bit")
            ),
        ]
        for name in names
    ]
    chosen = "16-bit" if selection.onto == "16bit" else "4-bit"
    heading = f"The adapter on either weights: it is on the {chosen} ones"
    return [Grid(title=heading, columns=["", "4-bit", "16-bit"], rows=rows)]


def _scores(scores: Output) -> list[Grid]:
    """Pair the metrics `<name>/base` and `<name>/tuned`, of the held-out rows and of the suites."""
    rows = {
        name: [title(name), *map(measure(name).number, values)]
        for name, values in side_by_side(scores.metrics).items()
    }
    columns = ["", "base", "tuned"]
    held_out = [row for name, row in rows.items() if not is_of_suite(name)]
    suites = [row for name, row in rows.items() if is_of_suite(name)]
    return [
        Grid(title="Held-out scores", columns=columns, rows=held_out, note=_parts(rows)),
        *([Grid(title="Suites", columns=columns, rows=suites)] if suites else []),
    ]


def _parts(names: Iterable[str]) -> str:
    """Return what a name in brackets is, if a metric has one."""
    if not any("/" in name for name in names):
        return ""
    return "In brackets: a part of the rows, by the source that the dataset names (a / is written as _)."


OF_GGUF = (  # columns of the table of files
    *("bits_per_weight", "perplexity", "kl_divergence", "same_top_token"),
    *("exact_match", "stopped", "tokens_per_second"),
)


def _files(files: list[Gguf], reasons: Mapping[str, Sequence[Verdict]]) -> list[Grid]:
    """Return the table of files, and one of what does not ship and why, if there is such a file."""
    rows = [
        [gguf.method, format_bytes(gguf.bytes), *_measures(gguf), _destination(gguf, reasons)]
        for gguf in files
    ]
    columns = ["", "size", *(measure(name).heading for name in OF_GGUF), ""]
    withheld = [
        [file, "; ".join(map(str, verdicts))] for file, verdicts in reasons.items() if verdicts
    ]
    return [
        *(
            [Grid(title="GGUF files", columns=columns, rows=rows, note=ABOUT_FILES)]
            if files
            else []
        ),
        *(
            [Grid(title="Kept, not shipped", columns=["file", "why"], rows=withheld)]
            if withheld
            else []
        ),
    ]


def _measures(gguf: Gguf) -> list[str]:
    return [
        measure(name).number(gguf.metrics[name]) if name in gguf.metrics else "" for name in OF_GGUF
    ]


def _destination(gguf: Gguf, reasons: Mapping[str, Sequence[Verdict]]) -> str:
    if gguf.step.stage == "convert":
        return "source"
    return "kept" if reasons[gguf.file] else "ships"


def _stages(outputs: list[Output], run: Run) -> Grid:
    rows = [
        [
            f"{output.step.stage} {output.method}"
            if isinstance(output, Gguf)
            else output.step.stage,
            f"{output.seconds:.1f} s",
            "reused" if run.reused(output) else "ran",
        ]
        for output in outputs
    ]
    return Grid(title="Stages", columns=["", "took", ""], rows=rows)
