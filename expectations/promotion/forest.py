"""Differences with their intervals as a forest plot: SVG and HTML in the page, in its colours.

All stand on one axis, whose unit is each metric's own margin: what is within the grey band, from -1 to
1, counts as no difference; the noise of training is a dotted frame around it. Far out the axis is
logarithmic (asinh), so that a large difference hides no small one.
"""

from collections.abc import Sequence
from math import asinh, isfinite

from expectations.promotion.contest import PairedDifference
from expectations.promotion.demands import signed, words
from retune.escaping import html

WIDTH, HEIGHT = 200, 22  # units of a line; its width is the page's
NARROWEST = 3.0  # margins that the axis reaches on either side, at least
WIDEST = 1000.0
TICKS = (1, 3, 10, 30, 100, 300, 1000)
NOISE = 1.96  # standard deviations that replicas of one recipe are apart, at most
STYLE = """
.forest { display: grid; gap: 0 .9rem; align-items: center;
  grid-template-columns: minmax(8rem, 17rem) minmax(9rem, 1fr) max-content max-content; }
.forest svg { display: block; width: 100%; height: 2rem; overflow: hidden; }
.forest .number { text-align: right; }
.forest .axis-line { position: relative; height: 1.5rem; color: var(--grey); font-size: .8rem; }
.forest .axis-line span { position: absolute; transform: translateX(-50%); white-space: nowrap; }
.forest .within { fill: var(--grey); opacity: .28; } .forest .noise { fill: none;
  stroke: var(--grey); stroke-width: 1.5; stroke-dasharray: 2 2; }
.forest line, .forest rect { vector-effect: non-scaling-stroke; }
.forest .zero { stroke: var(--grey); stroke-width: 1; } .forest .interval { stroke-width: 2; }
.forest .point { stroke-width: 6; }
.forest .better { stroke: var(--good); } .forest .worse { stroke: var(--bad); }
.forest .equivalent, .forest .undecided { stroke: var(--ink); }
.forest .undecided.interval { stroke-dasharray: 5 3; }
.forest b.better { color: var(--good); } .forest b.worse { color: var(--bad); }
.forest b.undecided { color: var(--warn); }
.legend i { display: inline-block; width: 1.6em; height: .8em; background: var(--grey);
  opacity: .28; } .legend i.noise { background: none; opacity: 1; border: 1.5px dotted var(--grey); }
.legend i.dashed { background: none; opacity: 1; height: 0; border-top: 2px dashed var(--ink);
  vertical-align: middle; }
@media (max-width: 40rem) { .forest { grid-template-columns: 1fr max-content; }
  .forest > :nth-child(4n + 1) { grid-column: 1 / 3; margin-top: .5rem; }
  .forest > :nth-child(4n + 2) { grid-column: 1 / 3; } }
"""


def forest(differences: Sequence[PairedDifference]) -> str:
    """Return the chart of at least one difference."""
    reach = _reach(differences)
    cells = [_line(one, reach) for one in differences]
    return f'<div class="forest">\n{"".join(cells)}{_axis(reach)}\n</div>'


def _reach(differences: Sequence[PairedDifference]) -> float:
    """Return the end of the axis, in margins."""
    ends = [
        abs(bound) / _unit(one)
        for one in differences
        for bound in (one.low, one.high, one.estimate)
        if isfinite(bound)
    ]
    return min(WIDEST, max(NARROWEST, 1.15 * max(ends, default=0)))


def _unit(one: PairedDifference) -> float:
    return one.margin or max(abs(one.estimate) if isfinite(one.estimate) else 0, 1e-9)


def _x(margins: float, reach: float) -> float:
    """Return where a number of margins is, from 0 to WIDTH."""
    place = asinh(max(-reach, min(reach, margins))) / asinh(reach)
    return WIDTH * (1 + place) / 2


def _line(one: PairedDifference, reach: float) -> str:
    unit = _unit(one)
    low, high, point = (_x(bound / unit, reach) for bound in (one.low, one.high, one.estimate))
    middle = HEIGHT / 2
    parts = [
        _band("within", 1.0 if one.margin else 0.0, reach),
        _band("noise", NOISE * one.noise / unit, reach),
        f'<line class="zero" x1="{WIDTH / 2}" x2="{WIDTH / 2}" y1="0" y2="{HEIGHT}"/>',
        f'<line class="interval {one.outcome}" x1="{low:.2f}" x2="{high:.2f}" y1="{middle}" '
        f'y2="{middle}"/>',
        f'<line class="point {one.outcome}" x1="{point:.2f}" x2="{point:.2f}" y1="{middle - 5}" '
        f'y2="{middle + 5}"/>',
    ]
    interval = f"{signed(one, one.low)} to {signed(one, one.high)}"
    return (
        f'<span>{html(words(one.metric))} <small class="note">{one.examples:,} examples</small></span>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="{html(interval)}">{"".join(parts)}</svg>'
        f'<span class="number" title="{html(interval)}">{html(signed(one, one.estimate))}</span>'
        f'<b class="{one.outcome}">{one.outcome}</b>\n'
    )


def _band(kind: str, margins: float, reach: float) -> str:
    if not margins:
        return ""
    left, right = _x(-margins, reach), _x(margins, reach)
    return (
        f'<rect class="{kind}" x="{left:.2f}" width="{right - left:.2f}" y="1" '
        f'height="{HEIGHT - 2}"/>'
    )


def _axis(reach: float) -> str:
    ticks = [tick for tick in TICKS if tick <= reach]
    # Those next to each other would overlap on a telephone.
    shown = ticks if len(ticks) < 4 else [ticks[0], *ticks[2::2]]
    numbers = [0, *shown, *(-tick for tick in shown)]
    marks = "".join(
        f'<span style="left:{_x(number, reach) / WIDTH:.1%}">{_tick(number)}</span>'
        for number in numbers
    )
    ends = "<span></span>" * 2
    return f'<span class="note">worse ← margins → better</span><div class="axis-line">{marks}</div>{ends}'


def _tick(number: int) -> str:
    return "0" if not number else f"{'+' if number > 0 else '−'}{abs(number)}"
