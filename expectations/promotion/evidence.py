"""The evidence on a candidate as one page of HTML: the verdict, differences with intervals, what it
lost, incidents, files, cost. It loads nothing, and what came with data is masked and escaped."""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from json import dumps
from math import isfinite
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from expectations.promotion import forest
from expectations.promotion.contest import PairedDifference
from expectations.promotion.demands import signed, words
from expectations.promotion.examples import best, worst
from expectations.promotion.legend import legend, of_numbers
from expectations.promotion.subject import AboutCandidate
from expectations.verdicts import Verdict, ranked
from retune.escaping import html, html_block
from retune.escaping import markdown as plain
from retune.measures import ABOUT_FILES, MEASURES, format_bytes, measure
from retune.outcomes import BASE, CHAMPION, TUNED, of_side, scorer_of
from retune.recipe import Promotion
from retune.records import Gguf
from retune.webpage import document, folded, table

PAGE, NUMBERS = "evidence.html", "decision.json"
WORST = 20  # lost examples that are shown
SLICES = 40  # of which the chart shows the worst
OF_FILES = ("bits_per_weight", "perplexity", "kl_divergence", "same_top_token")
HEADS = {
    "promote": ("yes", "{} is promoted: it is better than the {}"),
    "held": ("yes", "{} is better than the {}, and not promoted yet"),
    "equivalent": ("open", "{} is equivalent: no better than the {}"),
    "undecided": ("open", "{} is undecided: too little evidence against the {}"),
    "rejected": ("no", "{} is rejected: it does not take the place of the {}"),
}
OF_A_LOSS = (
    "A loss (nats per token) is how unlikely a model finds the expected answer, less being better; for "
    "it neither model writes an answer of its own, so none is shown."
)
NOTHING = "(nothing)"
OF_SLICES = (
    "A slice is a part of a suite's rows, by the source that the dataset names: what stands after the "
    "comma."
)
DEMANDS = (
    '<p class="note">passed: met. Of a measure for which the recipe asks for no proof it is enough not '
    "to be shown to be worse, which few examples do not prove. undecided: the examples are too few to "
    "say, which promotes nothing, and is no fault of the candidate.</p>"
)
STYLE = """
header { border-left: .5rem solid var(--warn); background: var(--panel); padding: 1rem 1.2rem;
  border-radius: 0 .4rem .4rem 0; } header.no { border-color: var(--bad); }
header.yes { border-color: var(--good); } header.no h1 { color: var(--bad); }
header.yes h1 { color: var(--good); } header ul { margin: .4rem 0 0; padding-left: 1.2rem; }
.lost, .won { border: 1px solid var(--rule); border-radius: .3rem; padding: .6rem .9rem;
  margin: .7rem 0; }
.lost dl, .won dl { display: grid; grid-template-columns: 7.5rem 1fr; gap: .25rem .9rem;
  margin: .4rem 0 0; }
dt { color: var(--grey); } dd { margin: 0; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0; font: .9em ui-monospace, monospace; }
.facts { display: grid; grid-template-columns: max-content 1fr; gap: .1rem .9rem; }
header .about { margin-bottom: .5rem; }
.good { color: var(--good); } .bad { color: var(--bad); font-weight: 600; }
.unjudged { color: var(--warn); }
"""


class Exhibit(NamedTuple):
    """What the page shows besides: the files made of the candidate, further facts (cost, versions) by
    their names in words, and whom it is about."""

    files: Sequence[Gguf] = ()
    facts: Mapping[str, str] = MappingProxyType({})
    subject: AboutCandidate | None = None


class Case(NamedTuple):
    """What was decided, and on what."""

    outcome: str
    reasons: Sequence[str]
    differences: Sequence[PairedDifference]
    verdicts: Sequence[Verdict]
    opponent: str
    rule: Promotion
    subject: AboutCandidate | None = None
    more_examples: str = ""

    @property
    def headline(self) -> str:
        candidate = self.subject.name if self.subject else "The candidate"
        return HEADS[self.outcome][1].format(candidate, self.opponent)

    @property
    def next_step(self) -> str:
        """What there is to do now, "" if nobody said whom it is about."""
        if not self.subject:
            return ""
        return self.subject.next_step(self.outcome, self.rule.mode, self.more_examples)


def write_case(
    case: Case,
    outcomes: tuple[Path, Path | None, Path | None],
    exhibit: Exhibit,
    folder: Path,
) -> tuple[str, ...]:
    """Write the page and the same in numbers into `folder`; return the names of the files.

    `outcomes` are the files of the candidate's outcomes (with its base's), of the champion's, and of both
    on the anchor.
    """
    lost, won = _telling(case, *outcomes)
    (folder / PAGE).write_text(page(case, lost, exhibit, won), encoding="utf-8")
    numbers = {
        "outcome": case.outcome,
        "opponent": case.opponent,
        "reasons": list(case.reasons),
        "differences": [one.model_dump(mode="json") for one in case.differences],
        "verdicts": [verdict.model_dump(mode="json") for verdict in case.verdicts],
        "rule": case.rule.model_dump(mode="json", exclude={"webhooks", "ollama"}),
    }
    (folder / NUMBERS).write_text(dumps(numbers, indent=1, ensure_ascii=False), encoding="utf-8")
    return PAGE, NUMBERS


def _telling(
    case: Case, outcomes: Path, champion: Path | None, anchor: Path | None
) -> "tuple[list[dict[str, Any]], list[dict[str, Any]]]":
    """Return the examples that the candidate lost most by, and those that it gained most by."""
    import polars as pl

    if not case.differences:
        return [], []
    sides = pl.read_parquet(outcomes)
    candidate = [of_side(sides, TUNED)]
    opponent = [of_side(pl.read_parquet(champion), CHAMPION) if champion else of_side(sides, BASE)]
    if anchor:
        both = pl.read_parquet(anchor)
        candidate.append(of_side(both, TUNED))
        opponent.append(of_side(both, CHAMPION))
    margins = {one.metric: one.margin for one in case.differences if not one.is_slice}
    mine, other = (pl.concat(tables, how="diagonal") for tables in (candidate, opponent))
    lost, won = (examples(mine, other, margins, WORST).to_dicts() for examples in (worst, best))
    return lost, won


def page(
    case: Case,
    lost: "Sequence[Mapping[str, Any]]",
    exhibit: Exhibit,
    won: "Sequence[Mapping[str, Any]]" = (),
) -> str:
    """Return the page; `lost` are examples as `expectations.promotion.examples.worst` gives them, `won`
    as `best` does."""
    parts = [
        _header(case),
        *_chart("Differences", [one for one in case.differences if not one.is_slice], case),
        *_slices(case),
        "<h2>What was demanded</h2>",
        _demands(case.verdicts),
        *_losses(lost, case),
        *_gains(won, case.opponent),
        *_files(exhibit.files),
        *_facts(exhibit.facts),
        *_numbers(case.differences, case.rule),
    ]
    return document(html(case.headline), parts, forest.STYLE + STYLE)


def _header(case: Case) -> str:
    reasons = "".join(
        f"<li>{html(reason, 2000)}</li>" for reason in [*case.reasons, *_causes(case)]
    )
    kind = HEADS[case.outcome][0]
    about = f'<p class="about">{html(case.subject.sentence)} {_as_of()}</p>' if case.subject else ""
    todo = f"<p><b>What to do now</b> {_linked(case.next_step)}</p>" if case.subject else ""
    lines = f"<h1>{html(case.headline)}</h1>\n{about}<ul>{reasons}</ul>{todo}"
    return f'<header class="{kind}">{lines}</header>'


def _as_of() -> str:
    """Return of when the page is: what it says of what serves, and what to do, may be past."""
    return f"As of {datetime.now(UTC):%Y-%m-%d %H:%M} UTC."


def _chart(title: str, differences: Sequence[PairedDifference], case: Case) -> list[str]:
    if not differences:
        return []
    note = legend(differences, "candidate", case.opponent, case.rule.alpha)
    return [f"<h2>{title}</h2>", forest.forest(differences), note if title == "Differences" else ""]


def _causes(case: Case) -> list[str]:
    """Return what may be behind a loss on the champion's rows: the dataset answers them otherwise."""
    told = [one for one in case.verdicts if one.name == "anchor_answers" and not one.passed]
    if case.outcome != "rejected":
        return []
    return [f"What may be behind it: of the questions on these rows {one.seen}" for one in told]


def _linked(sentences: str) -> str:
    """Return sentences with commands between backticks, and Markdown's links, as HTML."""
    with_code = re.sub(r"`([^`]+)`", r"<code>\1</code>", html(sentences, 2000))
    return re.sub(r"\[([^\]]+)\]\((https?://[^\s)\"]+)\)", r'<a href="\2">\1</a>', with_code)


def _slices(case: Case) -> list[str]:
    slices = sorted(
        (one for one in case.differences if one.is_slice),
        key=lambda one: (one.outcome != "worse", one.estimate / (one.margin or 1)),
    )
    if not slices:
        return []
    worse = sum(one.outcome == "worse" for one in slices)
    summary = f"{len(slices)} slices, {worse or 'none'} of them worse"
    more = f"<p>The {SLICES} worst of them.</p>" if slices[SLICES:] else ""
    title, drawn, _ = _chart("Slices", slices[:SLICES], case)
    note = f'<p class="note">{OF_SLICES}</p>'
    shown = f"{more}{drawn}{note}"
    return [title, f"<p>{summary}.</p>{shown}" if worse else folded(summary, shown)]


def _demands(verdicts: Sequence[Verdict]) -> str:
    rows = [
        (
            _result(verdict),
            html(verdict.expected),
            html(verdict.seen, 2000) + _fix(verdict),
            f"<code>{html(verdict.setting)}</code>",
        )
        for verdict in ranked(verdicts)
    ]
    return table(("result", "*expected", "*seen", "setting"), rows) + DEMANDS


def _fix(verdict: Verdict) -> str:
    """Return what there is to do about one that is not met."""
    return f'<br><span class="note">{_linked(verdict.fix)}</span>' if not verdict.passed else ""


def _result(verdict: Verdict) -> str:
    if verdict.passed:
        return '<span class="good">passed</span>'
    if not verdict.judged:
        return '<span class="unjudged">undecided</span>'
    return f'<span class="bad">{verdict.outcome}</span>' if verdict.blocks else verdict.outcome


def _losses(lost: "Sequence[Mapping[str, Any]]", case: Case) -> list[str]:
    if not lost:
        none = "<p>No example that both were asked is worse by more than the margin.</p>"
        return ["<h2>Lost examples</h2>", none] if case.differences else []
    count = "The example" if len(lost) == 1 else f"The {len(lost)} examples"
    other = html(case.opponent.partition(",")[0])
    return [
        f"<h2>{count} that it lost most by</h2>",
        f"<p class=\"note\">The candidate's grade of each against the {other}'s: first what they "
        f"answered, then losses, each by more than the margin. {OF_A_LOSS}</p>",
        *(_example(one, case.opponent, "lost") for one in lost),
    ]


def _gains(won: "Sequence[Mapping[str, Any]]", opponent: str) -> list[str]:
    if not won:
        return []
    shown = "".join(_example(one, opponent, "won") for one in won)
    count = "1 example" if len(won) == 1 else f"{len(won)} examples"
    return ["<h2>What it gained</h2>", folded(f"The {count} that it gained most by", shown)]


def _example(one: Mapping[str, Any], opponent: str, kind: str) -> str:
    entry = measure(scorer_of(one["metric"]))
    grades = f"{entry.of_one(one['candidate_grade'])} against {entry.of_one(one['opponent_grade'])}"
    source = f", {html(one['slice'])}" if one["slice"] else ""
    texts = {
        "asked": one["prompt"],
        "expected": one["expected"],
        f"{opponent.partition(',')[0]} said": one["opponent"],
        "candidate said": one["candidate"],
    }
    lines = "".join(
        f"<dt>{html(name)}</dt><dd><pre>{html_block(text or NOTHING)}</pre></dd>"
        for name, text in texts.items()
        if text or (text is not None and name.endswith(" said"))
    )
    return (
        f'<section class="{kind}"><b>{html(words(one["metric"]))}: {html(grades)}</b>'
        f'<span class="note">{source}</span>\n<dl>{lines}</dl></section>'
    )


def _files(files: Sequence[Gguf]) -> list[str]:
    if not files:
        return []
    head = ("*file", "#size", *(f"#{MEASURES[name].heading}" for name in OF_FILES), "*")
    rows = [
        (
            html(file.file),
            format_bytes(file.bytes),
            *(
                measure(name).number(file.metrics[name]) if name in file.metrics else ""
                for name in OF_FILES
            ),
            html(file.failure),
        )
        for file in files
    ]
    return ["<h2>Files</h2>", table(head, rows), f'<p class="note">{html(ABOUT_FILES)}</p>']


def _facts(facts: Mapping[str, str]) -> list[str]:
    if not facts:
        return []
    lines = "".join(f"<dt>{html(name)}</dt><dd>{html(text)}</dd>" for name, text in facts.items())
    return ["<h2>Cost and origin</h2>", f'<dl class="facts">{lines}</dl>']


def _numbers(differences: Sequence[PairedDifference], rule: Promotion) -> list[str]:
    if not differences:
        return []
    head = ("*metric", "#examples", "#candidate", "#opponent", "#difference", "#from", "#to")
    rows = [
        (
            html(words(one.metric)),
            f"{one.examples:,}" + (f" (+{one.left_out:,} unpaired)" if one.left_out else ""),
            *(
                html(measure(scorer_of(one.metric)).number(side))
                for side in (one.candidate, one.opponent)
            ),
            *(html(signed(one, value)) for value in (one.estimate, one.low, one.high)),
            f"±{signed(one, one.margin).lstrip('+')}",
            f"{one.p:.2g}",
            one.outcome,
            f"{one.needed:,}" if one.needed else "",
        )
        for one in differences
    ]
    columns = (*head, "#margin", "#p", "*outcome", "#needed")
    return [
        "<h2>All numbers</h2>",
        folded(f"{len(rows)} differences", table(columns, rows) + of_numbers(rule.alpha)),
        f'<p class="note">The same in numbers: <code>{NUMBERS}</code>.</p>',
    ]


def markdown(case: Case) -> str:
    """Return the decision for Prefect: why, and the differences of whole suites with their intervals, in
    which a minus is a loss."""
    lines = [f"### {plain(case.headline)}", "", *(f"- {plain(reason)}" for reason in case.reasons)]
    if case.subject and case.outcome != "held":  # who is asked has the question above it
        lines = [lines[0], "", plain(case.subject.sentence), *lines[1:]]
        lines += ["", f"**What to do now** {case.next_step}"]
    elif case.subject and case.subject.alike:
        lines = [lines[0], "", f"**{plain(case.subject.alike)}**", *lines[1:]]
    rows = [one for one in case.differences if not one.is_slice]
    if rows:
        share = f"{100 * (1 - case.rule.alpha):.3g}% interval"
        lines += [
            "",
            f"| measure | difference | {share} | examples | |",
            "| --- | ---: | ---: | ---: | --- |",
            *map(_row, rows),
            "",
            "A minus is worse. undecided: the examples are too few to say better, worse or equal.",
        ]
    return "\n".join(lines)


def _row(one: PairedDifference) -> str:
    """Return a difference as a line of the table in Markdown."""
    interval = (
        "none"
        if not isfinite(one.low)
        else f"{signed(one, one.low, '')} to {signed(one, one.high, '')}"
    )
    cells = (
        words(one.metric),
        signed(one, one.estimate),
        interval,
        f"{one.examples:,}",
        one.outcome,
    )
    return f"| {' | '.join(map(plain, cells))} |"
