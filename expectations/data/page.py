"""The gate's outcome as one page of HTML: the verdict, why, where, and what would mend it.

It loads nothing: style and charts are in it, and its policy forbids all else. Whatever came with
the data is escaped.
"""

from collections.abc import Sequence
from typing import NamedTuple

from expectations.data import charts
from expectations.data.findings import Contribution, Finding
from expectations.data.repairs import Repaired, Repairs
from expectations.data.report import Report
from expectations.verdicts import Verdict, ranked
from retune.escaping import html
from retune.recipe.flaws import FLAWS
from retune.recipe.repairs import REPAIRS
from retune.webpage import POLICY, document, folded, table

__all__ = ["POLICY", "Figure", "page"]

STYLE = """
header { border-left: .5rem solid var(--good); background: var(--panel); padding: 1rem 1.2rem;
  border-radius: 0 .4rem .4rem 0; } header.no { border-color: var(--bad); }
header.no h1 { color: var(--bad); } header.yes h1 { color: var(--good); }
header p { font-size: 1.05rem; }
.tiles { display: grid; gap: .5rem 1rem; margin: 1rem 0 0;
  grid-template-columns: repeat(auto-fit, minmax(6.2rem, 1fr)); }
.tiles b { display: block; font-size: 1.35rem; line-height: 1.2;
  font-variant-numeric: tabular-nums; } .tiles span { color: var(--grey); }
section.card { border: 1px solid var(--rule); border-left: .3rem solid var(--bad);
  border-radius: .3rem; padding: .8rem 1rem; margin: .8rem 0; }
section.warning { border-left-color: var(--warn); } section.info { border-left-color: var(--grey); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem .9rem; margin: .3rem 0; }
dt { color: var(--grey); } dd { margin: 0; }
ol.examples { list-style: none; margin: .5rem 0 0; padding: 0; }
ol.examples li { border-top: 1px solid var(--rule); padding: .25rem 0; display: grid;
  grid-template-columns: 9.5rem 1fr; gap: .2rem .8rem; } ol.examples span { color: var(--grey); }
.card .bars { grid-template-columns: 1fr max-content; margin-top: .4rem; }
.card .bars > :first-child { display: none; }
.mend { background: var(--panel); border-radius: .3rem; padding: .4rem .7rem; margin-top: .5rem; }
.example { display: block; color: var(--grey); }
.good { color: var(--good); } .bad { color: var(--bad); font-weight: 600; }
.unjudged { color: var(--grey); font-style: italic; } nav { margin: .8rem 0 0; }
nav a { margin-right: 1rem; white-space: nowrap; } a { color: var(--good); }
@media (max-width: 40rem) { dl { grid-template-columns: 1fr; } dd { margin-bottom: .3rem; }
  ol.examples li { grid-template-columns: 1fr; } }
"""


class Figure(NamedTuple):
    """A chart or a section of a page, made elsewhere: its title in words, its HTML and its style."""

    title: str
    content: str
    style: str = ""


def page(report: Report, figures: Sequence[Figure] = (), sections: Sequence[Figure] = ()) -> str:
    """Return the page: the verdict, each expectation that failed with rows and excerpts, what only
    warns, what was not judged, charts, sources, and all else folded.

    `figures` are charts beside that of the flaws, `sections` come behind the sources; their content
    is HTML, in which all that came with data is escaped.
    """
    failed = [verdict for verdict in ranked(report.verdicts) if verdict.failed]
    kept = [finding for finding in report.findings if not _failed(finding, failed)]
    parts = [
        _header(report),
        *_cards("What failed", [one for one in failed if one.blocks], report),
        *_cards("Warnings", [one for one in failed if one.severity == "warning"], report),
        *_cards(
            "For information", [v for v in failed if not v.blocks and v.severity == "info"], report
        ),
        *_unjudged(report.unjudged),
        *_charts(report, figures),
        *_repairs(report.repairs),
        *_origins("Parts of the mix", report.by_part),
        *_origins("Sources", report.by_source),
        *(f"<h2>{html(one.title)}</h2>\n{one.content}" for one in sections),
        *_within_limits(kept, report.rows),
        "<h2>Everything that was expected</h2>",
        folded(f"{len(report.verdicts)} expectations", _expectations(report.verdicts)),
        f'<p class="note">Suite <code>{html(report.suite)}</code>, judged by Great Expectations. The '
        f"same in numbers: <code>report.json</code>, <code>expectations.json</code>.</p>",
    ]
    return document(html(report.headline), parts, _style(sections))


def _style(sections: Sequence[Figure]) -> str:
    return "".join([charts.STYLE, STYLE, *(one.style for one in sections)])


def _header(report: Report) -> str:
    kind = "no" if report.failed else "yes"
    passed = sum(verdict.passed for verdict in report.verdicts)
    tiles = [
        (report.rows, "rows"),
        (report.accepted, "accepted"),
        (report.quarantined, "in quarantine"),
        (report.filtered, "filtered out"),
        (len(report.failed), "failed"),
        (len(report.warnings), "warning" if len(report.warnings) == 1 else "warnings"),
        (len(report.unjudged), "not judged"),
        (passed, "passed"),
    ]
    shown = "".join(f"<div><b>{number:,}</b><span>{words}</span></div>" for number, words in tiles)
    return (
        f'<header class="{kind}"><h1>{html(report.headline)}</h1>\n<p>{_why(report)}</p>\n'
        f'<div class="tiles">{shown}</div></header>'
    )


def _why(report: Report) -> str:
    """Return the verdict's reason in one sentence."""
    if not report.failed:
        warned = f", {len(report.warnings)} that only warn did not" if report.warnings else ""
        return f"Every expectation that was judged and that must hold did{warned}."
    first = ranked(report.failed)[0]
    others = len(report.failed) - 1
    more = f", and {others} more" if others else ""
    return f"Expected: {html(first.expected)}; seen: {_seen(first, report)}{more}."


def _seen(verdict: Verdict, report: Report) -> str:
    """Return what was seen; the example that it quotes stands below it."""
    finding = _finding(verdict, report)
    if finding is None:
        return html(verdict.seen)
    return f"{finding.rows:,} of {report.rows:,} rows ({finding.rows / report.rows:.1%})"


def _finding(verdict: Verdict, report: Report) -> Finding | None:
    return report.finding(verdict.name) if verdict.name in FLAWS else None


def _failed(finding: Finding, failed: Sequence[Verdict]) -> bool:
    return any(verdict.name == finding.flaw for verdict in failed)


def _cards(title: str, verdicts: Sequence[Verdict], report: Report) -> list[str]:
    if not verdicts:
        return []
    return [f"<h2>{title}</h2>", *(_card(verdict, report) for verdict in verdicts)]


def _card(verdict: Verdict, report: Report) -> str:
    finding = _finding(verdict, report)
    facts = [
        ("seen", _seen(verdict, report)),
        ("setting", f"<code>{html(verdict.setting)}</code>" if verdict.setting else ""),
        ("then", _then(finding) if finding else ""),
    ]
    lines = "".join(f"<dt>{name}</dt><dd>{words}</dd>" for name, words in facts if words)
    share = ""
    if finding and verdict.limit is not None:
        share = charts.bars(
            [charts.Bar("share of rows", finding.rows / report.rows, verdict.limit)]
        )
    advice = [*([verdict.fix] if verdict.fix else []), *(finding.advice if finding else [])]
    advice += _meanings(" ".join(advice))
    sentences = "".join(f"<p>{html(sentence)}</p>" for sentence in advice)
    mend = f'<div class="mend">{sentences}</div>' if advice else ""
    return (
        f'<section class="card {verdict.severity}"><h3>Expected: {html(verdict.expected)}</h3>\n'
        f"<dl>{lines}</dl>{share}{_examples(finding) if finding else ''}{mend}</section>"
    )


def _meanings(advice: str) -> list[str]:
    """Say what the repairs do that are advised: their names alone do not."""
    return [f"{name}: {title}" for name, title in REPAIRS.items() if name in advice]


def _then(finding: Finding) -> str:
    return "the rows go to quarantine" if finding.quarantined else "the rows stay"


def _examples(finding: Finding) -> str:
    lines = [
        f"<li><span>{html(str(one))}</span><code>{html(one.excerpt)}</code></li>"
        for one in finding.examples
    ]
    return f'<ol class="examples">{"".join(lines)}</ol>' if lines else ""


def _unjudged(verdicts: Sequence[Verdict]) -> list[str]:
    if not verdicts:
        return []
    rows = [(html(verdict.expected), html(verdict.seen)) for verdict in verdicts]
    return ["<h2>Not judged</h2>", table(("*expected", "*why it is open"), rows)]


def _charts(report: Report, figures: Sequence[Figure]) -> list[str]:
    limits = {v.name: v.limit for v in report.verdicts if v.name in FLAWS and v.judged}
    lines = [
        charts.Bar(finding.title, finding.rows / max(report.rows, 1), limits.get(finding.flaw))
        for finding in report.findings
    ]
    drawn = [f"<h2>Rows with each flaw</h2>\n{charts.bars(lines)}"] if lines else []
    if lines:
        note = "Each line is the share that is tolerated, as the number in brackets is."
        drawn.append(f'<p class="note">{note}</p>')
    if figures:
        shown = [
            f"<figure><figcaption>{html(one.title)}</figcaption>{one.content}</figure>"
            for one in figures
        ]
        drawn += ["<h2>Distributions</h2>", f'<div class="charts">{"".join(shown)}</div>']
    return drawn


def _origins(title: str, origins: Sequence[Contribution]) -> list[str]:
    if not origins:
        return []
    head = (
        "*name",
        "#rows",
        "#accepted",
        "#quarantined",
        "#filtered",
        "#mean score",
        "*most common",
    )
    rows = [
        (
            html(one.name),
            f"{one.rows:,}",
            f"{one.accepted:,}",
            f"{one.quarantined:,}",
            f"{one.filtered:,}",
            "" if one.score_mean is None else f"{one.score_mean:.3g}",
            one.words,
        )
        for one in origins
    ]
    return [f"<h2>{title}</h2>", table(head, rows)]


def _within_limits(findings: Sequence[Finding], rows: int) -> list[str]:
    """Return what was found and is tolerated, each folded with its examples."""
    if not findings:
        return []
    parts = [
        folded(
            f"{finding.rows:,} rows ({finding.rows / rows:.1%}) have {html(finding.title)}; "
            f"{_then(finding)}",
            _examples(finding),
        )
        for finding in findings
    ]
    return ["<h2>Found, and tolerated</h2>", *parts]


def _expectations(verdicts: Sequence[Verdict]) -> str:
    """Return the table of expectations, the failed ones first, the gravest of them at the top."""
    rows = [
        (
            _result(verdict),
            verdict.severity,
            html(verdict.expected),
            html(verdict.seen),
            f"<code>{html(verdict.setting)}</code>",
        )
        for verdict in ranked(verdicts)
    ]
    return table(("result", "severity", "*expected", "*seen", "setting"), rows)


def _result(verdict: Verdict) -> str:
    if verdict.passed:
        return '<span class="good">passed</span>'
    if not verdict.judged:
        return '<span class="unjudged">not judged</span>'
    return f'<span class="bad">{verdict.outcome}</span>' if verdict.blocks else verdict.outcome


def _repairs(repairs: Repairs) -> list[str]:
    """Return the section on what was repaired and what could be, nothing where there is neither."""
    advice, parts = repairs.advice(), []
    if repairs.applied:
        lines = [
            (
                f"{done.rows:,}",
                f"<code>{html(done.name)}</code>",
                html(done.title) + (_change(done) if done.rows else ""),
            )
            for done in repairs.applied
        ]
        parts = ["<h2>What was repaired</h2>", table(("#rows", "repair", "*does"), lines)]
    if advice and not parts:
        parts = ["<h2>What could be repaired</h2>"]
    return [*parts, *([f"<p>{html(advice)}</p>"] if advice else [])]


def _change(done: Repaired) -> str:
    before, after = (f"<code>{html(repr(text))}</code>" for text in (done.before, done.after))
    return f'<span class="example">row {done.row:,}: {before} → {after}</span>'
