"""One self-contained page of HTML, for a browser, MLflow's file view or an e-mail.

It loads nothing: its style is in it, it has no script, and its policy forbids all else. Whatever
came with data goes through `retune.escaping.html` before it becomes a part of it.
"""

from collections.abc import Sequence

# `default-src 'none'`: even a picture that slipped through would not be fetched.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'"
STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --grey: #656d76; --rule: #d8dee4; --page: #fff;
  --panel: #f6f8fa; --good: #0072b2; --bad: #b34700; --warn: #8a6100; --bar: #0072b2;
  --over: #d55e00; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e6; --grey: #a0a6ad; --rule: #3a3f45;
  --page: #16181b; --panel: #202327; --good: #56b4e9; --bad: #ff9d5c; --warn: #e3b341;
  --bar: #3f94cc; --over: #e8843a; } }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page);
  max-width: 66rem; margin: 0 auto; padding: 1.5rem 1.2rem 3rem; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .3rem; }
h2 { font-size: 1.15rem; margin: 2.4rem 0 .6rem; }
h3 { font-size: 1rem; margin: 0 0 .4rem; }
p { margin: .3rem 0; } .note { color: var(--grey); }
code { font: .87em ui-monospace, monospace; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th { text-align: left; color: var(--grey); font-weight: 600; white-space: nowrap; }
th, td { padding: .35rem .9rem .35rem 0; border-bottom: 1px solid var(--rule);
  vertical-align: top; }
td:not(.text) { white-space: nowrap; } td.text { min-width: 12rem; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
summary { cursor: pointer; padding: .3rem 0; } details { margin: .4rem 0; }
@media print { body { max-width: none; padding: 0; font-size: 10pt; }
  details::details-content { content-visibility: visible; block-size: auto; }
  section, tr { break-inside: avoid; } h2 { break-after: avoid; } }
"""


def document(title: str, parts: Sequence[str], style: str = "") -> str:
    """Return a whole page; the title and the parts of its body are HTML already."""
    body = "\n".join(part for part in parts if part)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{title}</title>\n<style>{STYLE}{style}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of cells in HTML. Of the head `#` marks a column of numbers, `*` one of text."""
    kinds = [{"#": ' class="number"', "*": ' class="text"'}.get(name[:1], "") for name in head]
    titles = [f"<th{kind}>{name.lstrip('#*')}</th>" for kind, name in zip(kinds, head, strict=True)]
    lines = [f"<tr>{''.join(titles)}</tr>"]
    for row in rows:
        cells = [f"<td{kind}>{cell}</td>" for kind, cell in zip(kinds, row, strict=True)]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return '<div class="wide"><table>\n' + "\n".join(lines) + "\n</table></div>"


def folded(summary: str, content: str) -> str:
    """Return content in HTML that is shown when its summary is opened."""
    return f"<details><summary>{summary}</summary>\n{content}\n</details>"
