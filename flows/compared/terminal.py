"""A comparison on a terminal: the answer first, then tables; what is longer stands on the page."""

from rich.console import Group, RenderableType
from rich.text import Text

from expectations.promotion.demands import deciding, words
from flows.compared.records import ComparedExample, Comparison, Differing, FileChange, Spread
from flows.compared.words import causes, ended, headline, missing_time, number, told, value
from flows.summary import Grid
from retune.escaping import visible
from retune.measures import MEASURES, format_bytes, measure, title
from retune.outcomes import scorer_of

MOST = 15  # lines of a table
EXAMPLES = 4  # of either kind
LINE = 160  # characters of a text


def rich(comparison: Comparison) -> RenderableType:
    """Return the comparison for a terminal; what came with data is seen whole there."""
    parts: list[RenderableType] = [_heading(comparison), ""]
    parts += [Text(visible(line)) for line in (headline(comparison), *causes(comparison))]
    for grid in _grids(comparison):
        parts += ["", grid.rich()]
    for words_of, found in (("Lost", comparison.lost), ("Won", comparison.won)):
        if found:
            parts += ["", Text(f"{words_of}: the most telling examples", style="bold")]
            parts += [line for one in found[:EXAMPLES] for line in _example(one)]
    parts += ["", *(Text(f"Not compared: {visible(line)}") for line in comparison.missing)]
    return Group(*parts)


def _heading(comparison: Comparison) -> RenderableType:
    older, newer = comparison.older, comparison.newer
    lines = [
        f"{name}  {visible(run.name)}  ({run.id[:8]}, {run.started} UTC, {ended(run)})"
        for name, run in (("older", older), ("newer", newer))
    ]
    return Text("\n".join(lines), style="bold")


def _grids(comparison: Comparison) -> list[Grid]:
    grids = [
        _changes("Recipe", comparison.recipe),
        _changes("Environment", comparison.environment),
        *_data(comparison),
        _differences(comparison),
        _tallies(comparison),
        _metrics(comparison),
        _files(comparison.files),
    ]
    return [grid for grid in grids if grid.rows]


def _changes(heading: str, changes: list[Differing]) -> Grid:
    rows = [[one.name, value(one.older), value(one.newer)] for one in changes[:MOST]]
    return Grid(title=heading, columns=["", "older", "newer"], rows=rows)


def _data(comparison: Comparison) -> list[Grid]:
    change = comparison.data
    if not change or not change.added + change.removed + change.edited:
        return []
    columns = ["source", "older", "newer", "added", "removed", "edited"]
    rows = [
        [one.source or "(none)", *(f"{getattr(one, name):,}" for name in columns[1:])]
        for one in change.sources[:MOST]
    ]
    spreads = [[f"{one.what} of {one.rows}", *_spread(one)] for one in change.spreads]
    return [
        Grid(title="Rows by source", columns=columns, rows=rows),
        Grid(title="Rows", columns=["", "5th percentile", "median", "95th"], rows=spreads),
    ]


def _spread(spread: Spread) -> list[str]:
    spec = ",.0f" if spread.what == "characters" else ".3f"
    return ["" if of is None else f"{of:{spec}}" for of in (spread.p05, spread.p50, spread.p95)]


def _differences(comparison: Comparison) -> Grid:
    rows = []
    told_of = [
        one
        for one in comparison.differences
        if not one.is_slice or one.outcome in ("better", "worse")
    ]
    for one in told_of[:MOST]:
        spec = measure(scorer_of(one.metric))
        needed = f"; {deciding(one)}" if one.outcome == "undecided" else ""
        values = [spec.number(one.opponent), spec.number(one.candidate), told(one)]
        rows.append([words(one.metric), *values, f"{one.outcome}{needed}"])
    columns = ["on the same examples", "older", "newer", "gain (interval)", ""]
    return Grid(title="Which is better", columns=columns, rows=rows)


def _tallies(comparison: Comparison) -> Grid:
    rows = [
        [f"{title(one.scorer)} ({one.suite})", *(f"{n:,}" for n in (one.won, one.lost, one.same))]
        for one in comparison.tallies
    ]
    return Grid(title="Examples", columns=["", "won", "lost", "same"], rows=rows)


def _metrics(comparison: Comparison) -> Grid:
    rows = [
        [one.title, number(one, one.older), number(one, one.newer)]
        for one in comparison.metrics
        if number(one, one.older) != number(one, one.newer)
    ]
    note = missing_time(comparison)
    heading = f"Measures that differ{f' ({note})' if note else ''}"
    return Grid(title=heading, columns=["", "older", "newer"], rows=rows)


def _files(files: list[FileChange]) -> Grid:
    rows = []
    for file in files:
        cells = [file.method]
        for run in ("older", "newer"):
            size, ships = getattr(file, f"{run}_bytes"), getattr(file, f"{run}_ships")
            divergence = getattr(file, f"{run}_kl_divergence")
            cells += [
                "" if size is None else format_bytes(size),
                "" if divergence is None else MEASURES["kl_divergence"].number(divergence),
                {True: "ships", False: "kept", None: ""}[ships],
            ]
        rows.append([*cells, "same file" if file.identical else ""])
    columns = ["", "older size", "KL", "", "newer size", "KL", "", ""]
    return Grid(title="GGUF files", columns=columns, rows=rows)


def _example(one: ComparedExample) -> list[Text]:
    spec = measure(one.scorer)
    grades = f"{title(one.scorer)} {spec.of_one(one.older)} → {spec.of_one(one.newer)}"
    asked = visible(" / ".join(one.prompt.splitlines()), LINE)
    lines = [Text(f"  {visible(one.slice, 40)}: {asked}  [{grades}]")]
    if one.newer_answer is not None:
        said = f"expected {visible(one.expected, 60)!s}; older: {visible(one.older_answer, 60)}"
        lines.append(Text(f"    {said}; newer: {visible(one.newer_answer, 60)}", style="dim"))
    for row in one.near[:1]:
        words_of = f"new row {row.row} ({visible(row.source, 30)}, likeness {row.likeness:.0%})"
        lines.append(Text(f"    {words_of}: {visible(row.excerpt, LINE)}", style="dim"))
    return lines
