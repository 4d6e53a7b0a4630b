"""The charts of the gate's page, as SVG and HTML in it: they follow its colours and its width.

Limits are drawn where they are: a bar, or a part of a histogram, beyond its limit has another colour.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from retune.escaping import html
from retune.histograms import edges_of, shares_in

if TYPE_CHECKING:
    import numpy as np

WIDTH, HEIGHT, FOOT = 420, 165, 20  # units of a histogram: about a pixel each on a telephone
SCALE_FROM = 20  # largest over smallest from which a histogram's axis is logarithmic
TICKS = 6  # on an axis, about
STYLE = """
.charts { display: grid; gap: 1.4rem 2rem;
  grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); }
figure { margin: 0; } figcaption { font-weight: 600; margin-bottom: .3rem; }
svg { display: block; width: 100%; overflow: visible; font: 11px system-ui, sans-serif; }
.bar { fill: var(--bar); } .over { fill: var(--over); } .outline { fill: none; stroke: var(--ink);
  stroke-width: 1.3; } .limit { stroke: var(--ink); stroke-width: 1.3; stroke-dasharray: 4 3; }
.axis { stroke: var(--grey); } svg text { fill: var(--grey); } svg text.mark { fill: var(--ink); }
.bars { display: grid; grid-template-columns: minmax(8rem, 24rem) minmax(5rem, 1fr) max-content;
  gap: .3rem .8rem; align-items: center; line-height: 1.25; }
.bars svg { height: .95rem; } .bars .number { text-align: right;
  font-variant-numeric: tabular-nums; }
.bars .limit { stroke-dasharray: none; stroke-width: 2; vector-effect: non-scaling-stroke; }
@media (max-width: 40rem) { .bars { grid-template-columns: 1fr max-content; }
  .bars > :nth-child(3n + 1) { grid-column: 1 / 3; margin-top: .4rem; } }
"""


class Bar(NamedTuple):
    """A share (0 to 1) with its words and, if there is one, the limit that it has to keep to."""

    words: str
    share: float
    limit: float | None = None
    number: str = ""  # instead of the share


def bars(lines: Sequence[Bar]) -> str:
    """Return a chart of shares, all on one scale, each with its limit as a mark; one that is off the
    scale is told in words."""
    top = 1.05 * max((bar.share for bar in lines), default=0) or 1
    cells = []
    for bar in lines:
        kind = "over" if bar.limit is not None and bar.share > bar.limit + 1e-9 else "bar"
        limit = "" if bar.limit is None else f' <span class="note">({percent(bar.limit)})</span>'
        mark = ""
        if bar.limit is not None and bar.limit <= top:
            x = max(100 * bar.limit / top, 0.3)
            mark = f'<line class="limit" x1="{x:.2f}" x2="{x:.2f}" y1="0" y2="10"/>'
        cells.append(
            f"<span>{html(bar.words)}</span>"
            f'<svg viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
            f'<rect class="{kind}" y="1.5" width="{100 * bar.share / top:.2f}" height="7"/>{mark}</svg>'
            f'<span class="number">{html(bar.number or percent(bar.share))}{limit}</span>'
        )
    return f'<div class="bars">\n{"".join(cells)}\n</div>'


def histogram(
    values: "np.ndarray",
    limit: float | None = None,
    words: str = "",
    is_min: bool = False,
    outline: Sequence[float] = (),
) -> str:
    """Return a histogram of numbers (at least one), those beyond `limit` in another colour.

    `words` stand at the limit; with `is_min` it is what is below that is beyond it. `outline` are
    evenly spaced quantiles of a distribution to compare with. Positive numbers that are far apart
    stand on a logarithmic axis, and a limit that is off the axis is told in words.
    """
    import numpy as np

    # Of the values their ends: the axis is made of these, and there may be millions.
    everything = np.array([values.min(), values.max(), *outline], dtype=float)
    logarithmic = 1e-9 < SCALE_FROM * everything.min() <= everything.max()
    scale = np.log2 if logarithmic else np.asarray
    low, high = float(everything.min()), float(everything.max())
    bounds = (low / 4, 4 * high) if logarithmic else (2 * low - high, 2 * high - low)
    is_near = limit is not None and bounds[0] <= limit <= bounds[1]
    points = scale(np.append(everything, [limit] if is_near else []))
    edges = edges_of(points)
    at = float(scale(np.float64(limit))) if is_near and limit is not None else None
    shares = shares_in(scale(values.astype(float)), edges)
    reference = shares_in(scale(np.asarray(outline, dtype=float)), edges) if len(outline) else None
    top = 1.15 * max(shares.max(), 0 if reference is None else reference.max())
    axis = _Axis(float(edges[0]), float(edges[-1]), float(top), logarithmic)
    parts = [axis.area(edges, shares, at, is_min)]
    if reference is not None:
        parts.append(f'<path class="outline" d="{axis.steps(edges, reference)}"/>')
    if limit is not None:
        parts.append(axis.mark(at, words if at is not None else f"{words} (off this axis)"))
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html(words) or "histogram"}">'
        f"{''.join(parts)}{axis.ticks()}</svg>"
    )


class _Axis(NamedTuple):
    """Where numbers are in a histogram."""

    left: float
    right: float
    top: float
    logarithmic: bool

    def x(self, value: float) -> float:
        return WIDTH * (value - self.left) / (self.right - self.left)

    def y(self, share: float) -> float:
        return (HEIGHT - FOOT) * (1 - share / self.top)

    def steps(self, edges: "np.ndarray", shares: "np.ndarray") -> str:
        """Return the outline of the bins as a path."""
        points = [f"M{self.x(float(edges[0])):.1f} {self.y(0):.1f}"]
        for left, right, share in zip(edges[:-1], edges[1:], shares, strict=True):
            points.append(f"L{self.x(left):.1f} {self.y(share):.1f}H{self.x(right):.1f}")
        return "".join([*points, f"V{self.y(0):.1f}Z"])

    def area(
        self, edges: "np.ndarray", shares: "np.ndarray", limit: float | None, is_min: bool
    ) -> str:
        """Return the bins; one that the limit runs through is cut there, not given to one side."""
        import numpy as np

        if limit is None:
            return f'<path class="bar" d="{self.steps(edges, shares)}"/>'
        below, above = ("over", "bar") if is_min else ("bar", "over")
        return (
            f'<path class="{below}" d="{self.steps(np.minimum(edges, limit), shares)}"/>'
            f'<path class="{above}" d="{self.steps(np.maximum(edges, limit), shares)}"/>'
        )

    def mark(self, at: float | None, words: str) -> str:
        """Return the line of a limit with its words on the roomier side, or the words alone."""
        if at is None:
            return f'<text class="mark" x="{WIDTH}" y="10" text-anchor="end">{html(words)}</text>'
        x = self.x(at)
        anchor, place = ("end", x - 5) if x > WIDTH / 2 else ("start", x + 5)
        return (
            f'<line class="limit" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{HEIGHT - FOOT}"/>'
            f'<text class="mark" x="{place:.1f}" y="10" text-anchor="{anchor}">{html(words)}</text>'
        )

    def ticks(self) -> str:
        """Return the axis with some round numbers below it."""
        import numpy as np

        span = self.right - self.left
        if self.logarithmic:
            step = max(1, round(span / TICKS))
        else:
            power = 10.0 ** np.floor(np.log10(span / TICKS))
            step = next(n * power for n in (1, 2, 2.5, 5, 10) if n * power >= span / TICKS)
        first = np.ceil(self.left / step) * step
        numbers = np.arange(first, self.right, step)
        labels = [f"{2**n if self.logarithmic else n:,.6g}" for n in numbers]
        y = HEIGHT - FOOT
        return f'<line class="axis" x1="0" x2="{WIDTH}" y1="{y}" y2="{y}"/>' + "".join(
            f'<text x="{min(max(self.x(n), 8), WIDTH - 10):.1f}" y="{HEIGHT - 5}" '
            f'text-anchor="middle">{label}</text>'
            for n, label in zip(numbers, labels, strict=True)
        )


def percent(share: float) -> str:
    """Return a share in few signs; a small one is not none."""
    return "<0.1%" if 0 < share < 0.001 else f"{100 * share:.3g}%"
