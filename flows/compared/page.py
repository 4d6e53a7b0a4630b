"""A comparison as one self-contained page of HTML."""

from collections.abc import Sequence

from expectations.promotion.demands import deciding, words
from expectations.promotion.forest import STYLE as FOREST
from expectations.promotion.forest import forest
from expectations.promotion.legend import legend
from flows.compared.lines import STYLE as LINES
from flows.compared.lines import charts
from flows.compared.records import ComparedExample, Comparison, Differing, FileChange, NearRow
from flows.compared.words import causes, ended, headline, missing_time, number, told, value
from retune.escaping import html, html_block
from retune.measures import MEASURES, format_bytes, measure, title
from retune.outcomes import HELD_OUT, scorer_of
from retune.recipe import Promotion
from retune.webpage import document, folded, table

SPREADS = {"characters": "characters", "score": "score in the dataset (its own quality column)"}
OPEN = 4  # examples that are seen at once
STYLE = f"""{FOREST}{LINES}
.newer-better {{ color: var(--good); font-weight: 600; }}
.older-better {{ color: var(--bad); font-weight: 600; }}
.example {{ border-left: 3px solid var(--rule); padding: .1rem 0 .3rem .8rem; margin: 1rem 0; }}
.example.lost {{ border-color: var(--bad); }} .example.won {{ border-color: var(--good); }}
.example pre {{ font: inherit; white-space: pre-wrap; margin: .2rem 0; }}
.answers {{ display: grid; gap: .2rem 1rem; grid-template-columns: max-content 1fr; }}
.answers dt {{ color: var(--grey); }} .answers dd {{ margin: 0; }}
.first {{ font-size: 1.08rem; font-weight: 600; margin: .8rem 0 .4rem; }}
"""


def page(comparison: Comparison) -> str:
    """Return the page. Whatever came with data or a name is masked before, and shown as text."""
    older, newer = comparison.older, comparison.newer
    parts = [
        f"<h1>{html(newer.recipe or 'Two runs')}: two runs compared</h1>",
        _runs(comparison),
        f'<p class="first">{html(headline(comparison))}</p>',
        f"<ul>{''.join(f'<li>{html(line)}</li>' for line in causes(comparison))}</ul>",
        *_section("Which is better", _differences(comparison)),
        *_section("Lost examples", _examples(comparison.lost, "lost")),
        *_section("Won examples", _examples(comparison.won, "won")),
        *_section("Recipe", _settings(comparison.recipe)),
        *_section("Rows", _data(comparison)),
        *_section("How the trainings went", charts(comparison.curves)),
        *_section("GGUF files", _files(comparison.files)),
        *_section("Measures", _metrics(comparison)),
        *_section("Environment", _settings(comparison.environment)),
        *_section("Not compared", _missing(comparison.missing)),
    ]
    return document(f"{html(newer.name)} and {html(older.name)}", parts, STYLE)


def _section(heading: str, content: str) -> Sequence[str]:
    return [f"<section><h2>{heading}</h2>\n{content}</section>"] if content else []


def _runs(comparison: Comparison) -> str:
    rows = [
        [
            f"<b>{name}</b>",
            html(run.name),
            f"<code>{html(run.id[:8])}</code>",
            html(f"{run.started} UTC"),
            html(ended(run)),
        ]
        for name, run in (("older", comparison.older), ("newer", comparison.newer))
    ]
    return table(["", "*run", "id", "began", "ended"], rows)


def _differences(comparison: Comparison) -> str:
    if not comparison.differences:
        return ""
    whole = [one for one in comparison.differences if not one.is_slice]
    slices = [one for one in comparison.differences if one.is_slice]
    note = (
        '<p class="note">What the newer run gains over the older one, on the examples that both were '
        "asked.</p>"
    )
    how = legend(whole, "newer run", "older one", Promotion().alpha) if whole else ""
    rows = []
    for one in whole:
        spec = measure(scorer_of(one.metric))
        needed = f"; {deciding(one)}" if one.outcome == "undecided" else ""
        cells = [words(one.metric), spec.number(one.opponent), spec.number(one.candidate)]
        cells += [told(one), f"{one.outcome}{needed}", f"{one.examples:,}"]
        rows.append(list(map(html, cells)))
    share = f"{100 * (1 - Promotion().alpha):.3g}%"
    head = ["*measure", "#older", "#newer", f"gain ({share} interval)", "*outcome", "#examples"]
    parts = [note, forest(whole) if whole else "", how, table(head, rows), _tallies(comparison)]
    if slices:
        parts.append(folded(f"By slice ({len(slices)})", forest(slices)))
    return "\n".join(parts)


def _tallies(comparison: Comparison) -> str:
    rows = [
        [
            html(f"{title(one.scorer)} ({one.suite})"),
            *(f"{n:,}" for n in (one.won, one.lost, one.same, one.only_older, one.only_newer)),
        ]
        for one in comparison.tallies
    ]
    head = ["*examples", "#won", "#lost", "#same", "#only older", "#only newer"]
    note = (
        '<p class="note">won, lost: examples at which the newer run did better, or worse; only older, '
        "only newer: which the other run was not asked.</p>"
    )
    return table(head, rows) + note if rows else ""


def _examples(found: Sequence[ComparedExample], kind: str) -> str:
    """Return the first few, and the others to be opened."""
    lines = [_example(one, kind) for one in found]
    more = "".join(lines[OPEN:])
    return "\n".join([*lines[:OPEN], folded(f"{len(lines) - OPEN} more", more) if more else ""])


def _example(one: ComparedExample, kind: str) -> str:
    spec = measure(one.scorer)
    grades = f"{title(one.scorer)}: {spec.of_one(one.older)} → {spec.of_one(one.newer)}"
    answers = [
        ("expected", one.expected),
        ("older", one.older_answer),
        ("newer", one.newer_answer),
    ]
    lines = "".join(
        f"<dt>{name}</dt><dd><pre>{html_block(text)}</pre></dd>" for name, text in answers if text
    )
    near = "".join(map(_near, one.near))
    told_near = folded(f"New training rows that are like it ({len(one.near)})", near)
    return (
        f'<div class="example {kind}"><p class="note">{html(one.slice)} · {html(grades)}</p>'
        f"<pre>{html_block(one.prompt)}</pre>"
        f"{f'<dl class=answers>{lines}</dl>' if lines else ''}{told_near if near else ''}</div>"
    )


def _near(row: NearRow) -> str:
    return (
        f'<p class="note">row {row.row:,} of {html(row.source or "the data")}, likeness '
        f"{row.likeness:.0%}</p><pre>{html_block(row.excerpt)}</pre>"
    )


def _settings(changes: Sequence[Differing]) -> str:
    rows = [
        [f"<code>{html(one.name)}</code>", html(value(one.older)), html(value(one.newer))]
        for one in changes
    ]
    return table(["*", "*older", "*newer"], rows) if rows else ""


def _data(comparison: Comparison) -> str:
    change = comparison.data
    if change is None:
        return ""
    counts = (change.older, change.newer, change.same, change.added, change.removed, change.edited)
    names = ("older", "newer", "the same", "added", "removed", "edited")
    parts = [table([f"#{name}" for name in names], [[f"{count:,}" for count in counts]])]
    if change.share < 1:
        parts.append(f'<p class="note">Estimated from {change.share:.1%} of the rows.</p>')
    if not change.added + change.removed + change.edited:
        return "\n".join(parts)
    columns = ("older", "newer", "added", "removed", "edited")
    rows = [
        [html(one.source or "(none)"), *(f"{getattr(one, name):,}" for name in columns)]
        for one in change.sources
    ]
    parts.append(table(["*source", *(f"#{name}" for name in columns)], rows))
    spreads = [
        [html(f"{SPREADS[one.what]} of the {one.rows} rows")]
        + ["" if of is None else f"{of:,.4g}" for of in (one.p05, one.p50, one.p95)]
        for one in change.spreads
    ]
    parts.append(table(["*", "#5th percentile", "#median", "#95th percentile"], spreads))
    return "\n".join(parts)


def _files(files: Sequence[FileChange]) -> str:
    titles = {"bytes": "size", "ships": "ships"}
    titles |= {
        "kl_divergence": f"{MEASURES['kl_divergence'].title} from its 16-bit source",
        "exact_match": f"{MEASURES['exact_match'].title}, by llama.cpp",
    }
    rows = []
    for file in files:
        same = " (the same file)" if file.identical else ""
        for place, name in enumerate(("bytes", "kl_divergence", "exact_match", "ships")):
            cells = [_of_file(name, getattr(file, f"{run}_{name}")) for run in ("older", "newer")]
            rows.append(["" if place else html(file.method + same), titles[name], *cells])
    return table(["*file", "*", "#older", "#newer"], rows) if rows else ""


def _of_file(name: str, cell: float | bool | None) -> str:
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    return format_bytes(cell) if name == "bytes" else MEASURES[name].number(cell)


def _metrics(comparison: Comparison) -> str:
    rows = []
    open_ = {
        f"evaluate/{scorer_of(one.metric)}/tuned"
        for one in comparison.differences
        if one.metric.startswith(f"{HELD_OUT}/")
        and not one.is_slice
        and one.outcome in ("undecided", "equivalent")
    }
    for one in comparison.metrics:
        better = "" if one.name in open_ else one.better
        marks = {
            run: f' class="{run}-better"' if better == run else "" for run in ("older", "newer")
        }
        cells = [
            f"<span{marks[run]}>{html(number(one, of))}</span>"
            for run, of in (("older", one.older), ("newer", one.newer))
        ]
        rows.append([html(one.title), *cells])
    note = "In bold is the better of the two: blue if it is the newer, orange the older; of what "
    note += "the examples do not decide, none. "
    note += missing_time(comparison) or ""
    return f'<p class="note">{note}</p>' + table(["*", "#older", "#newer"], rows)


def _missing(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{html(line)}</li>' for line in lines)}</ul>" if lines else ""
