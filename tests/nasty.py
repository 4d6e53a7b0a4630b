"""What strangers write into rows, names and cards to make a screen do more than show it.

`NASTY` goes through every exit of the project. Each text has the word MARK, to be found again.
"""

MARK = "canary"
HOST = "calls-home.example"  # nothing may be asked for there

NASTY = {
    "heading": f"# {MARK}",
    "heading after a break": f"row\n\n# {MARK}\n\n---\n",
    "underlined": f"{MARK}\n=====\n",
    "picture": f"![{MARK}](http://{HOST}/pixel.png)",
    "picture by reference": f"![{MARK}][x]\n\n[x]: http://{HOST}/pixel.png",
    "link": f"[{MARK}](javascript:alert(1)) [sign in](https://{HOST}/login)",
    "bare addresses": f"{MARK} https://{HOST}/a www.{HOST} me@{HOST} <https://{HOST}>",
    "list": f"- {MARK}\n1. {MARK}\n+ {MARK}",
    "cells": f"{MARK} | ok | \\| | **passed** |\n|---|---|",
    "emphasis": f"**{MARK}** _{MARK}_ ~~{MARK}~~ `{MARK}`",
    "code": f"```\n{MARK}\n````\n`{MARK}``",
    "diagram": f"```mermaid\ngraph TD; {MARK}-->B\n```",
    "formula": f"$$\\frac{{{MARK}}}{{2}}$$ $x_1$",
    "script": f"<script>fetch('http://{HOST}/{MARK}')</script>",
    "picture in HTML": f"<img src='http://{HOST}/{MARK}.png' onerror='alert(1)'>",
    "end of an attribute": f"\"'><svg onload=alert(1)><style>@import '//{HOST}/{MARK}.css'</style>",
    "end of a page": f"--></details></table></body>{MARK}<iframe src=http://{HOST}>",
    "entity": f"&lt;b&gt;{MARK}&#x200b;&amp;",
    "colour": f"\x1b[32m{MARK} ACCEPTED\x1b[0m",
    "title and link of a terminal": f"\x1b]0;{MARK}\x07\x1b]8;;http://{HOST}\x1b\\here\x1b]8;;\x1b\\",
    "cleared screen": f"\x1b[2J\x1b[H\x9b1A{MARK}",
    "overwritten": f"rejected\rACCEPTED {MARK}\x08\x08",
    "bell and NUL": f"{MARK}\x00\x07\x0b\x0c\x7f",
    "bidi": f"{MARK} \u202egnp.exe\u2066\u2069\u200f",
    "unseen": f"{MARK}\u200b\u2060\ufeff\u00ad\u3164\U000e0041",
    "line separators": f"{MARK}\u2028forged\u2029\x85line",
    "lone surrogate": f"{MARK} \ud800",
    "markup of rich": f"[red]{MARK}[/red] [link=http://{HOST}]here[/] [/nothing]",
    "YAML": f"{MARK}: &a [*a, !!python/object:os.system x] # y\n---\n...\n- 'a\": %",
    "Jinja": f"{{{{ {MARK}.__class__ }}}} {{% for x in y %}} {{# {MARK} #}}",
    "format": f"{{{MARK}}} %({MARK})s %s ${MARK} ${{{MARK}}}",
    "quotes": f'"""{MARK}""" \'\'\' \\" \\',
    "shell": f"$(touch {MARK}) `id`; rm -rf ~ && {MARK}",
    "long line": f"{MARK} " + "x" * 100_000,
}
# What people write every day, and must be able to read.
EVERYDAY = (
    'It\'s 5 < 6 & 7 > 3: "Grüße, 東京!" – naïve café, 100 %',
    "family 👨‍👩‍👧 and flag 🇩🇪",
    "می‌خواهم",
    "FineTome_100k/train-00001.parquet",
)
# A terminal or a page does something at these, or does not show them.
UNSEEN = [
    *map(chr, [*range(9), *range(11, 32), *range(127, 160)]),
    *"\u00ad\u200b\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069",
    *"\u3164\ufeff\ud800\U000e0041",
]


def unseen_in(text: str) -> list[str]:
    """Return the characters of `text` that act on a screen or are not seen on it."""
    return [character for character in UNSEEN if character in text]
