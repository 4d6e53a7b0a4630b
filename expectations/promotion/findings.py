"""What was found of a candidate in a sentence, for pages without room for all of the evidence."""

from collections.abc import Iterable, Iterator, Sequence

from expectations.promotion.contest import PairedDifference, shown_metric
from expectations.promotion.demands import deciding, difference, words
from expectations.verdicts import Judgement
from retune.outcomes import HELD_OUT, LOSS
from retune.recipe import Promotion
from retune.recipe.evaluation import ANCHOR

OF_METRICS = ("win", "no_worse", "anchor")  # verdicts on a difference of a whole suite
OF_SLICES = ("no_worse_slice", "anchor_slice")
MORE_ROWS = " More rows, or a larger `formatting.held_out_share`, give more of them."
WORDS = {  # by the verdict: what is said of what was seen
    "budget": "it has forgotten {seen}",
    "incidents": "incidents happen again: {seen}",
    "floor": "not {expected}: {seen}",
    **dict.fromkeys(OF_SLICES, "worse on slices: {seen}"),
}


def telling(differences: Sequence[PairedDifference], rule: Promotion) -> list[PairedDifference]:
    """Return the differences that a candidate stands or falls by: of the metrics that must be better,
    and of the loss on the rows that the champion was judged by."""
    wanted = {*map(shown_metric, rule.wins), f"{ANCHOR}/{LOSS}"}
    return [one for one in differences if one.metric in wanted]


def compared(
    told: Sequence[PairedDifference], opponent: str, every: Iterable[PairedDifference] = ()
) -> str:
    """Return how a candidate compares with its opponent, in a sentence or two; "" if nothing is known.

    What is `told` has its numbers; of `every` other difference of a whole suite the outcome is named.
    """
    parts = [f"{one.outcome} by {words(one.metric)}: {difference(one)}" for one in told]
    if not parts:
        return ""
    others: dict[str, list[str]] = {}
    for one in every:
        if not one.is_slice and one not in told:
            others.setdefault(one.outcome, []).append(
                f"{words(one.metric)}, {one.examples} examples"
            )
    more = [f"{outcome} by {'; by '.join(names)}" for outcome, names in others.items()]
    also = f" Besides: {'; '.join(more)}." if more else ""
    return f"Against the {opponent}: {'; '.join(parts)}.{also}"


def more_examples(told: Iterable[PairedDifference]) -> str:
    """Return in a sentence what more examples would do for a candidate that is undecided; "" if they
    are not what it wants."""
    one = next((one for one in told if one.outcome == "undecided"), None)
    if one is None:
        return ""
    vain = " That would not promote it." if one.would_be in ("worse", "equivalent") else ""
    sentence = f"By {words(one.metric)}, {deciding(one)}."
    wants_more = one.needed and not vain and one.metric.startswith(f"{HELD_OUT}/")
    return f"{sentence}{vain}{MORE_ROWS if wants_more else ''}"


def why_rejected(judged: Judgement, differences: Sequence[PairedDifference]) -> str:
    """Return in a clause what speaks against a candidate, and what may be behind it."""
    return "; ".join([*_failures(judged, differences), *_changes(judged)])


def _failures(judged: Judgement, differences: Sequence[PairedDifference]) -> Iterator[str]:
    worse = [one for one in differences if one.outcome == "worse" and not one.is_slice]
    names = {verdict.name for verdict in judged.failed}
    if worse and names & set(OF_METRICS):
        yield f"worse by {', '.join(words(one.metric) for one in worse)}"
        names -= {*OF_METRICS, *OF_SLICES}
    for verdict in judged.failed:
        if verdict.name in names:
            form = WORDS.get(verdict.name, "not {expected}: {seen}")
            yield form.format(expected=verdict.expected, seen=verdict.seen)


def _changes(judged: Judgement) -> Iterator[str]:
    for verdict in judged.verdicts:
        if verdict.name == "anchor_answers" and not verdict.passed:
            limit = f"at most {100 * (verdict.limit or 0):g}% may, {verdict.setting}"
            yield f"of the questions that the champion was judged by, {verdict.seen} ({limit})"
