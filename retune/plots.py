"""The pipeline's charts as PNG files: the title says what was found, the picture shows it.

Figures are made by hand, without pyplot: that keeps a global list of figures, and tasks run in
threads. Colours are Okabe and Ito's, which people with any colour vision can tell apart.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retune.histograms import edges_of, shares_in
from retune.measures import format_bytes, measure, unit_of_bytes

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE = "#0072B2", "#D55E00"
INK, GREY, RULE = "#222222", "#6B6B6B", "#E3E3E3"
WIDTH, HEIGHT = 9.0, 5.0  # inches
HEADER = 0.85  # inches above the axes, for title and subtitle
DPI = 150
LOG_FROM = 20  # longest over shortest from which lengths stand on a logarithmic axis


@dataclass(frozen=True)
class Point:
    """A GGUF file in the chart of sizes and quality: bytes, and KL divergence in nats per token."""

    name: str
    size: int
    divergence: float
    ships: bool


def score_histogram(
    scores: "np.ndarray",
    path: Path,
    threshold: float | None = None,
    reference: Sequence[float] | None = None,
) -> None:
    """Draw the classifier's scores into a PNG file, those below `threshold` in another colour.

    `reference` are evenly spaced quantiles of the last accepted dataset's scores, drawn as an
    outline. There may be no scores; they are finite.
    """
    import numpy as np

    scores = np.asarray(scores, dtype=float)
    # The outermost quantiles are single scores; drawn as a step's share they would be bumps.
    outline = np.asarray((reference or ())[1:-1], dtype=float)
    words = _score_words(scores, threshold, outline)
    if not len(scores) + len(outline):
        return _save(_headlines(*words), path)
    figure, axes = _chart(*words)
    ends = [scores.min(), scores.max()] if len(scores) else []
    edges = edges_of(np.array([*ends, *outline, *([] if threshold is None else [threshold])]))
    _draw_shares(axes, scores, edges, threshold, (ORANGE, BLUE))
    if len(outline):
        shares = shares_in(outline, edges)
        axes.stairs(shares, edges, color=INK, linewidth=1.4, label="last accepted dataset")
        axes.legend(**_LEGEND)
    if threshold is not None:
        _mark(axes, threshold, f"threshold {threshold:g}")
    axes.set_xlabel("score (the classifier's scale)")
    axes.set_ylabel(f"scores in each bin of {edges[1] - edges[0]:.3g} (%)")
    _save(figure, path)


def length_histogram(lengths: "np.ndarray", max_length: int, path: Path) -> None:
    """Draw the conversations' lengths (in tokens, at least 1) and what `max_length` cuts as a PNG.

    The axis is logarithmic when the lengths, or they and the cut, are far apart.
    """
    import numpy as np

    lengths = np.asarray(lengths)
    words = _length_words(lengths, max_length)
    if not len(lengths):
        return _save(_headlines(*words), path)
    figure, axes = _chart(*words)
    extent = np.append(lengths, max_length)
    if extent.max() >= LOG_FROM * extent.min():
        # Binned as logarithms, which are even on this axis.
        edges, values, cut = edges_of(np.log2(extent)), np.log2(lengths), np.log2(max_length)
        _powers_of_two(axes, edges)
    else:
        edges, values, cut = edges_of(extent), lengths, max_length
        axes.xaxis.set_major_formatter("{x:,.0f}")
    _draw_shares(axes, values, edges, cut, (BLUE, ORANGE))
    _mark(axes, cut, f"cut at {max_length:,} tokens")
    axes.set_xlabel("length of a conversation (tokens)")
    axes.set_ylabel("conversations in each bin (%)")
    _save(figure, path)


def reasons_chart(
    counts: Mapping[str, int], rows: int, path: Path, limits: Mapping[str, float] | None = None
) -> None:
    """Draw how many of `rows` rows have each reason into a PNG file, the most common first.

    `limits` are the shares (0 to 1) that are tolerated: a mark, and another colour above it.
    """
    from matplotlib.ticker import MaxNLocator

    ranked = sorted(((n, name) for name, n in counts.items() if n), key=lambda pair: -pair[0])
    words = _reason_words(ranked, rows)
    if not ranked:
        return _save(_headlines(*words), path)
    figure, axes = _chart(*words, height=HEADER + 0.8 + 0.36 * len(ranked))
    numbers, places = [n for n, _ in ranked], range(len(ranked))
    labels = [f"{n:,}  ({_percent(n, rows)})" for n in numbers]
    tolerated = [rows * (limits or {}).get(name, 1) for _, name in ranked]
    above = [n > limit for n, limit in zip(numbers, tolerated, strict=True)]
    colours = [ORANGE if one else BLUE for one in above]
    bars = axes.barh(places, numbers, height=0.62, color=colours)
    for label in axes.bar_label(bars, labels, padding=5, color=INK, fontsize=10.5):
        label.set_verticalalignment("center_baseline")  # as the names are
    axes.set_yticks(places, [n for _, n in ranked], color=INK, fontsize=10.5, parse_math=False)
    axes.set_ylim(len(ranked) - 0.4, -0.6)
    axes.set_xlim(0, numbers[0] * (1 + 0.017 * len(labels[0])))  # room for the label
    axes.grid(visible=False)  # each bar has its number
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    if limits:
        right = axes.get_xlim()[1]
        marks = [(x, place) for x, place in zip(tolerated, places, strict=True) if x <= right]
        for x, place in marks:
            axes.plot([x, x], [place - 0.42, place + 0.42], color=INK, linewidth=1.6)
    axes.set_xlabel("rows; a line is what is tolerated" if limits else "rows")
    _save(figure, path)


def size_and_quality(points: Sequence[Point], path: Path) -> None:
    """Draw what each quant gives up for its size into a PNG file; those that do not ship are crosses.

    The divergences stand on a logarithmic axis: each bit more leaves about a quarter.
    """
    words = _size_words(points)
    if not points:
        return _save(_headlines(*words), path)
    figure, axes = _chart(*words)
    unit, one = unit_of_bytes(max(point.size for point in points))
    for ships, colour, marker, label in (
        (True, BLUE, "o", "ships"),
        (False, ORANGE, "X", "does not ship"),
    ):
        if group := [point for point in points if point.ships == ships]:
            x, y = [point.size / one for point in group], [_above_zero(point) for point in group]
            axes.scatter(x, y, s=64, color=colour, marker=marker, label=label, zorder=3)
    for number, point in enumerate(sorted(points, key=lambda point: point.size)):
        # On either side of the falling line in turns, so that neighbours' names do not overlap.
        offset, align = ((5, 6), "left") if number % 2 else ((-5, -14), "right")
        place = (point.size / one, _above_zero(point))
        axes.annotate(
            point.name,
            place,
            xytext=offset,
            textcoords="offset points",
            ha=align,
            color=INK,
            fontsize=10.5,
        )
    axes.set_yscale("log")
    axes.minorticks_off()
    axes.margins(0.1, 0.15)
    axes.set_xlim(left=0)
    axes.legend(**_LEGEND)
    axes.set_xlabel(f"size of the file ({unit})")
    divergence = measure("kl_divergence")
    axes.set_ylabel(f"{divergence.title} from 16 bits ({divergence.unit})")
    _save(figure, path)


def _above_zero(point: Point) -> float:
    """Return the divergence, or what a logarithmic axis can show of none (or of less, by rounding)."""
    return max(point.divergence, 1e-7)


def _size_words(points: Sequence[Point]) -> tuple[str, str]:
    """Return title and subtitle."""
    if not points:
        return "No quant could be measured", ""
    ships = sorted((p for p in points if p.ships), key=lambda point: point.size)
    subtitle = "What each file loses against the 16-bit GGUF on held-out conversations"
    if not ships:
        return f"None of {_count(len(points), 'quant')} ships", subtitle
    share = "All" if len(ships) == len(points) else f"{len(ships)} of {len(points)}"
    smallest = f"{ships[0].name} with {format_bytes(ships[0].size)}"
    return f"{share} quants ship, the smallest is {smallest}", subtitle


def _score_words(
    scores: "np.ndarray", threshold: float | None, reference: "np.ndarray"
) -> tuple[str, str]:
    """Return title and subtitle."""
    import numpy as np

    if not len(scores):
        return "There are no scores", ""
    low, median, high = np.quantile(scores, [0.25, 0.5, 0.75])
    if threshold is not None:
        below = int(np.count_nonzero(scores < threshold))
        part = f"{_percent(below, len(scores))} of the scores lie" if below else "No score lies"
        title = f"{part} below {threshold:g}"
    elif low == high:
        title = f"Half of the scores or more are {median:.3g}"
    else:
        title = f"Half of the scores lie between {low:.3g} and {high:.3g}"
    subtitle = f"{_count(len(scores), 'score')}, mean {scores.mean():.3g}, median {median:.3g}"
    if len(reference):
        subtitle += f"; the last accepted dataset's median was {np.median(reference):.3g}"
    return title, subtitle


def _length_words(lengths: "np.ndarray", max_length: int) -> tuple[str, str]:
    """Return title and subtitle."""
    import numpy as np

    if not len(lengths):
        return "There are no conversations", ""
    longer, tokens = int(np.count_nonzero(lengths > max_length)), int(lengths.sum())
    subtitle = (
        f"{_count(len(lengths), 'conversation')}, {tokens:,} tokens, "
        f"median {np.median(lengths):,.0f}, longest {lengths.max():,}"
    )
    if not longer:
        return f"No conversation is longer than {max_length:,} tokens", subtitle
    lost = int(np.maximum(lengths - max_length, 0).sum())
    title = f"{_percent(longer, len(lengths))} of the conversations are longer than {max_length:,} tokens"
    return title, f"{subtitle}; the cut takes {_percent(lost, tokens)} of all tokens"


def _reason_words(ranked: list[tuple[int, str]], rows: int) -> tuple[str, str]:
    """Return title and subtitle."""
    if not ranked:
        return f"No flaw was found in {_count(rows, 'row')}", ""
    count, name = ranked[0]
    title = f"Most common flaw: {name}, in {_percent(count, rows)} of the rows"
    return title, f"{_count(rows, 'row')}; a row may have several flaws"


def _headlines(title: str, subtitle: str, height: float = HEADER) -> "Figure":
    """Return a figure, `height` inches high, with nothing but its headlines."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor="white")
    # Names come from the data: a dollar sign in one is no formula.
    words: dict[str, Any] = {"ha": "left", "va": "top", "parse_math": False}
    top = 1 - 0.2 / height
    figure.text(0.025, top, title, fontsize=14, fontweight="bold", color=INK, **words)
    figure.text(0.025, top - 0.32 / height, subtitle, fontsize=10.5, color=GREY, **words)
    return figure


def _chart(title: str, subtitle: str, height: float = HEIGHT) -> "tuple[Figure, Axes]":
    """Return an empty chart, `height` inches high, under its headlines."""
    figure = _headlines(title, subtitle, height)
    figure.set_layout_engine("constrained", rect=(0.015, 0.02, 0.965, 1 - HEADER / height - 0.02))
    axes = figure.add_subplot()
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(GREY)
    axes.grid(axis="y", color=RULE)
    axes.set_axisbelow(True)
    axes.tick_params(colors=GREY, labelsize=10, length=0)
    axes.tick_params(axis="x", length=4)
    axes.xaxis.label.set(color=INK, fontsize=10.5)
    axes.yaxis.label.set(color=INK, fontsize=10.5)
    return figure, axes


_LEGEND: dict[str, Any] = {
    "loc": "lower left",
    "bbox_to_anchor": (0, 1),
    "ncols": 2,
    "frameon": False,
    "fontsize": 10.5,
    "borderaxespad": 0.2,
    "borderpad": 0,
    "handlelength": 1.4,
}


def _draw_shares(
    axes: "Axes",
    values: "np.ndarray",
    edges: "np.ndarray",
    limit: float | None,
    colours: tuple[str, str],
) -> None:
    """Fill the histogram of `values` in percent, in one colour below `limit` and another above."""
    from matplotlib.patches import Rectangle

    axes.set_xlim(edges[0], edges[-1])
    if not len(values):
        return
    shares = shares_in(values, edges)
    below, above = colours
    if limit is None:
        axes.stairs(shares, edges, fill=True, color=BLUE, label="this dataset")
    else:
        # A bin that the limit runs through is cut there, not given to one side.
        for colour, start, end in ((below, edges[0], limit), (above, limit, edges[-1])):
            label = "this dataset" if colour == BLUE else None
            bars = axes.stairs(shares, edges, fill=True, color=colour, label=label)
            side = Rectangle((start, 0), end - start, shares.max(), transform=axes.transData)
            bars.set_clip_path(side)


def _mark(axes: "Axes", x: float, words: str) -> None:
    """Draw a vertical line with its label on the roomier side, above the bars."""
    left, right = axes.get_xlim()
    top = 1.12 * axes.get_ylim()[1]
    axes.set_ylim(0, top)
    axes.axvline(x, color=INK, linewidth=1.2, linestyle=(0, (4, 3)))
    on_left = x - left > right - x
    axes.annotate(
        words,
        (x, top),
        xytext=(-6 if on_left else 6, -2),
        textcoords="offset points",
        ha="right" if on_left else "left",
        va="top",
        color=INK,
        fontsize=10.5,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},  # over the grid lines
    )


def _powers_of_two(axes: "Axes", edges: "np.ndarray") -> None:
    """Label an axis of log2(tokens), about ten times, with the tokens."""
    import numpy as np

    first, last = int(np.ceil(edges[0])), int(np.floor(edges[-1]))
    ticks = range(max(first, 0), last + 1, 1 + (last - first) // 12)
    axes.set_xticks(ticks, [f"{2**tick:,}" for tick in ticks])


def _percent(part: int, whole: int) -> str:
    """Return a share in words, in which a few are not none and nearly all are not all."""
    share = part / whole
    if 0 < share < 0.001:
        return "under 0.1%"
    if 0.999 < share < 1:
        return "over 99.9%"
    return "100%" if share == 1 else f"{share:.1%}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _save(figure: "Figure", path: Path) -> None:
    figure.savefig(path, format="png")
