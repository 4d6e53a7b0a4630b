"""Curves of two runs as SVG in a page, in its colours: the older run thin, the newer one strong."""

from collections.abc import Callable, Sequence
from math import isfinite, log

from flows.compared.records import Curve
from retune.escaping import html
from retune.measures import measure

WIDTH, HEIGHT, LEFT, FOOT = 420, 180, 46, 22  # units: about a pixel each on a telephone
WIDE = 8  # times that the highest value is the lowest, above which the axis is logarithmic
STYLE = """
.charts { display: grid; gap: 1.4rem 2rem;
  grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); }
figure { margin: 0; } figcaption { font-weight: 600; margin-bottom: .3rem; }
.charts svg { display: block; width: 100%; font: 11px system-ui, sans-serif; }
.charts polyline { fill: none; stroke-linejoin: round; }
.charts .older { stroke: var(--grey); stroke-width: 1.3; stroke-dasharray: 5 3; }
.charts .newer { stroke: var(--bar); stroke-width: 2; }
.charts .axis { stroke: var(--rule); } .charts text { fill: var(--grey); }
.key i { display: inline-block; width: 2em; border-top: 2px solid var(--bar);
  vertical-align: middle; } .key i.older { border-top: 2px dashed var(--grey); }
"""


def charts(curves: Sequence[Curve]) -> str:
    """Return a chart for each measure that there are curves of; nothing if there are none."""
    names = list(dict.fromkeys(curve.name for curve in curves))
    drawn = [_chart(name, [curve for curve in curves if curve.name == name]) for name in names]
    if not any(drawn):
        return ""
    key = '<p class="key note"><i class="older"></i> older &nbsp; <i></i> newer</p>'
    return f'{key}<div class="charts">{"".join(drawn)}</div>'


def _chart(name: str, curves: Sequence[Curve]) -> str:
    points = {
        curve.run: [
            point for point in zip(curve.tokens, curve.values, strict=True) if isfinite(point[1])
        ]
        for curve in curves
    }
    every = [point for line in points.values() for point in line]
    if not every:
        return ""
    spec = measure(name.partition("/")[2])
    right = max(x for x, _ in every) or 1
    low, high = min(y for _, y in every), max(y for _, y in every)
    is_log = low > 0 and high / low > WIDE  # else the first steps would flatten all others
    scale: Callable[[float], float] = log if is_log else float
    span = (scale(high) - scale(low)) or 1

    def place(point: tuple[float, float]) -> str:
        x = LEFT + (WIDTH - LEFT) * point[0] / right
        y = (scale(point[1]) - scale(low)) / span
        return f"{x:.1f},{(HEIGHT - FOOT) * (1 - 0.95 * y):.1f}"

    lines = "".join(
        f'<polyline class="{run}" points="{" ".join(map(place, line))}"/>'
        # The dashed one last: where both go the same way it is still seen.
        for run, line in sorted(points.items())
    )
    bottom = HEIGHT - FOOT
    axis = (
        f'<line class="axis" x1="{LEFT}" x2="{WIDTH}" y1="{bottom}" y2="{bottom}"/>'
        f'<text x="{LEFT - 6}" y="{bottom}" text-anchor="end">{low:.3g}</text>'
        f'<text x="{LEFT - 6}" y="18" text-anchor="end">{high:.3g}</text>'
        f'<text x="{WIDTH}" y="{HEIGHT - 6}" text-anchor="end">'
        f"{right:,.0f} {curves[0].over}</text>"
    )
    unit = f", {spec.unit}" if spec.unit else ""
    unit += " (logarithmic)" if is_log else ""
    return (
        f"<figure><figcaption>{html(spec.title + unit)}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html(spec.title)} of both runs">'
        f"{axis}{lines}</svg></figure>\n"
    )
