"""What the words, marks and columns of a page of evidence mean, in sentences beside them (HTML)."""

from collections.abc import Iterable, Sequence

from expectations.promotion.contest import PairedDifference
from expectations.promotion.demands import amount
from expectations.promotion.forest import NOISE
from retune.escaping import html
from retune.measures import title
from retune.outcomes import BATTERY, HELD_OUT, scorer_of
from retune.recipe.evaluation import ANCHOR

SUITES = {
    HELD_OUT: "rows of the dataset that were kept out of the training",
    ANCHOR: "rows that the champion was judged by, whatever the dataset says by now; its loss is "
    "measured anew on them, so it may be another number than that of held_out",
    BATTERY: "everyday questions that come with retune, which a model may forget",
}
OUTCOMES = {
    "better": "the difference is larger than the margin, and than chance explains",
    "worse": "likewise, the other way",
    "equivalent": "it is within the margin, or the noise of training",
    "undecided": "the examples are too few to say better, worse or equivalent; what the recipe asks no "
    "proof of passes all the same, if it was no worse in what was seen",
}


def legend(
    differences: Sequence[PairedDifference], candidate: str, opponent: str, alpha: float
) -> str:
    """Return how the chart of the differences of two models is read; they are called by these words."""
    noise = (
        '<i class="noise"></i> (dotted frame) the noise of training: what two trainings of one recipe '
        f"differ by: {_noise(differences)}. Whichever of both reaches further "
        "decides: a whole interval within it is equivalent. "
        if any(one.noise for one in differences)
        else ""
    )
    dashed = (
        '<i class="dashed"></i> a dashed line is that of a difference that is undecided. '
        if "undecided" in _outcomes(differences)
        else ""
    )
    chart = (
        f"To the right the {candidate} is better than the {html(opponent)}. A mark is the difference "
        f"seen, its line the {_share(alpha)} interval: the true difference is in there in "
        f"{_share(alpha)} of such comparisons. {dashed}<i></i> (grey band, from −1 to +1) the margin: "
        f"what counts as no difference. {noise}The axis counts margins: one is "
        f"{_margins(differences)}. It is linear near 0, and further out logarithmic."
    )
    words = [
        f"<b>{name}</b>: {html(told)}" for name, told in _used(OUTCOMES, _outcomes(differences))
    ]
    suites = [f"<b>{name}</b>: {html(told)}" for name, told in _used(SUITES, _suites(differences))]
    parts = [chart, "; ".join(words) + ".", "; ".join(suites) + "." if suites else ""]
    return "".join(f'<p class="note legend">{part}</p>' for part in parts if part)


def of_numbers(alpha: float) -> str:
    """Return what the columns of all numbers are."""
    return (
        f'<p class="note">candidate, opponent: their means over the examples that both were asked; '
        f"difference: of the pairs, better is +; from, to: its {_share(alpha)} interval; margin: what "
        f"counts as no difference; p: how often chance alone makes so large a difference, after "
        f"Holm's correction; needed: how many examples would show at this difference whether it is "
        f"better, worse or equivalent.</p>"
    )


def _share(alpha: float) -> str:
    return f"{100 * (1 - alpha):.3g}%"


def _margins(differences: Sequence[PairedDifference]) -> str:
    """Return the margins of the chart: `5.0 points (exact match), 0.0100 nats per token (loss)`."""
    return _sizes((one, one.margin) for one in differences)


def _noise(differences: Sequence[PairedDifference]) -> str:
    """Return how far the frames of the chart reach to either side, as the margins are told."""
    noisy = [one for one in differences if one.noise]
    known = (
        "assumed; `retune calibrate` measures it"
        if any(one.assumed for one in noisy)
        else "measured"
    )
    return f"{_sizes((one, NOISE * one.noise) for one in noisy)}, {known}".replace("`", "")


def _sizes(amounts: Iterable[tuple[PairedDifference, float]]) -> str:
    by_size: dict[str, dict[str, None]] = {}
    for one, value in amounts:
        by_size.setdefault(amount(one, value), {})[title(scorer_of(one.metric))] = None
    sizes = [f"{size} ({', '.join(names)})" for size, names in by_size.items()]
    return html(", ".join(sizes), 2000)


def _used(words: dict[str, str], names: Iterable[str]) -> list[tuple[str, str]]:
    used = set(names)
    return [(name, told) for name, told in words.items() if name in used]


def _outcomes(differences: Sequence[PairedDifference]) -> list[str]:
    return [one.outcome for one in differences]


def _suites(differences: Sequence[PairedDifference]) -> list[str]:
    return [one.metric.partition("@")[0].rpartition("/")[0] for one in differences]
