"""The gate's outcome as one page of HTML, for a browser, MLflow's file view or an e-mail.

It loads nothing: style and charts are in it, and its policy forbids all else. Whatever came with
the data is escaped.
"""

import base64
from collections.abc import Mapping, Sequence

from expectations.data.report import Finding, Report
from expectations.verdicts import Verdict, ranked
from retune.escaping import html

# `default-src 'none'`: even a picture that slipped through would not be fetched.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'"
STYLE = """
:root { color-scheme: light dark; --ink: #222; --grey: #6b6b6b; --rule: #e3e3e3; --page: #fff;
  --good: #0072b2; --bad: #b34700; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e6; --grey: #a0a0a0; --rule: #3a3a3a;
  --page: #1b1b1b; --good: #56b4e9; --bad: #ff9d5c; } }
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--page);
  max-width: 80rem; margin: 2rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
p.note { color: var(--grey); margin-top: 0; }
table { border-collapse: collapse; width: 100%; }
th { text-align: left; color: var(--grey); font-weight: 600; white-space: nowrap; }
th, td { padding: .4rem .9rem .4rem 0; border-bottom: 1px solid var(--rule); vertical-align: top;
  overflow-wrap: anywhere; }
td:not(.text) { white-space: nowrap; } td.number, th.number { text-align: right; }
.unjudged { color: var(--grey); font-style: italic; }
.good { color: var(--good); } .bad { color: var(--bad); font-weight: 600; }
.example { display: block; color: var(--grey); }
code { font: .88em ui-monospace, monospace; } img { max-width: 100%; background: #fff; }
"""


def page(report: Report, charts: Mapping[str, bytes]) -> str:
    """Return the page: verdict, every expectation, every flaw with row numbers and excerpts.

    `charts` are PNG files by their names.
    """
    parts = [
        f"<h1>{_headline(report)}</h1>",
        f'<p class="note">{_numbers(report)}</p>',
        "<h2>What was expected</h2>",
        _expectations(report.verdicts),
        "<h2>What was found</h2>",
        _findings(report.findings, report.rows) if report.findings else "<p>No flaw.</p>",
        "<h2>Where the accepted rows come from</h2>",
        _table(("source", "#rows"), [(html(n), f"{k:,}") for n, k in report.sources.items()]),
        "<h2>Charts</h2>",
        *(_picture(name, content) for name, content in charts.items()),
    ]
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{_headline(report)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _headline(report: Report) -> str:
    if not report.failed:
        return f"Dataset accepted: {report.accepted:,} of {report.rows:,} rows"
    many = "expectation" if len(report.failed) == 1 else "expectations"
    return f"Dataset rejected: {len(report.failed)} critical {many} failed"


def _numbers(report: Report) -> str:
    warnings = len(report.warnings)
    return (
        f"{report.rows:,} rows: {report.accepted:,} sound, {report.quarantined:,} in quarantine, "
        f"{report.filtered:,} dropped by the filter. {len(report.verdicts)} expectations, "
        f"{warnings} {'warning' if warnings == 1 else 'warnings'}, "
        f"{len(report.unjudged)} not judged. Suite <code>{report.suite}</code>, "
        f"judged by Great Expectations."
    )


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
    return _table(("result", "severity", "*expected", "*seen", "setting"), rows)


def _result(verdict: Verdict) -> str:
    if verdict.passed:
        return '<span class="good">passed</span>'
    if not verdict.judged:
        return '<span class="unjudged">not judged</span>'
    return f'<span class="bad">{verdict.outcome}</span>' if verdict.blocks else verdict.outcome


def _findings(findings: Sequence[Finding], rows: int) -> str:
    lines = [
        (
            f"{finding.rows:,}",
            f"{finding.rows / rows:.1%}",
            html(finding.title) + "".join(_example(*example) for example in finding.examples),
            "quarantined" if finding.quarantined else "kept",
        )
        for finding in findings
    ]
    return _table(("#rows", "#share", "*have", "then"), lines)


def _example(row: int, excerpt: str) -> str:
    return f'<span class="example">row {row:,}: <code>{html(excerpt)}</code></span>'


def _picture(name: str, content: bytes) -> str:
    data = base64.b64encode(content).decode()
    return f'<p><img src="data:image/png;base64,{data}" alt="{html(name)}"></p>'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of cells in HTML. Of the head `#` marks a column of numbers, `*` one of text."""
    kinds = [{"#": ' class="number"', "*": ' class="text"'}.get(name[0], "") for name in head]
    titles = [f"<th{kind}>{name.lstrip('#*')}</th>" for kind, name in zip(kinds, head, strict=True)]
    lines = [f"<tr>{''.join(titles)}</tr>"]
    for row in rows:
        cells = [f"<td{kind}>{cell}</td>" for kind, cell in zip(kinds, row, strict=True)]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return "<table>\n" + "\n".join(lines) + "\n</table>"
