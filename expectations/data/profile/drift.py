"""How far a dataset has moved from the last accepted one, number by number.

Each distance counts beyond what chance gives two samples of these sizes, with a correction for how
many numbers are compared (Bonferroni). The size of a sample is that of rows that know nothing of each
other: see `kinship`.
"""

from collections.abc import Iterator, Mapping
from math import atanh, log, sqrt
from typing import TYPE_CHECKING

from expectations.data.profile.alarms import LEAST_ROWS, Alarm
from expectations.data.profile.numbers import FLAGS, NUMBERS
from expectations.data.profile.record import SOURCES, STEPS, Profile, chance

if TYPE_CHECKING:
    import numpy as np

_CHANCE = 0.001  # of a false alarm, over all numbers together
_EACH = _CHANCE / len(NUMBERS)
# A distance that is shown next to that of a cumulative distribution: shares move by less.
_SHARES_COUNT = 5
_TAILS = (0.01, 0.02, 0.05)  # shares of the rows that were far out
_TAILS_COUNT = 5  # that 2 % more rows are there is as far as 0.1
_SOURCES_COUNT = 1 / 3  # that a third of the rows comes from sources gone or new is as far as 0.1
_SIZES_COUNT = 0.25  # that a quarter of the rows is gone
_TOPICS_COUNT = 0.5
_LENGTHS_COUNT = 0.5  # of a correlation
_PSI_COUNT = 0.4  # the usual limit, 0.25, is as far as 0.1
_RARE = 0.02  # share up to which categories are taken together


def drift(reference: Profile, new: Profile) -> list[Alarm]:
    """Return an alarm for each number that moved by more than chance, the farthest first.

    An alarm's `value` is its distance on the scale of the Kolmogorov-Smirnov statistic, 0 to 1.
    """
    if min(reference.rows, new.rows) < LEAST_ROWS:
        return []
    alarms = [
        *_distributions(reference, new),
        *_flags(reference, new),
        *_make_up(reference, new),
        *_topics(reference, new),
        *_lengths(reference, new),
    ]
    return sorted(alarms, key=lambda alarm: -alarm.value)


def critical(reference: Profile, new: Profile) -> float:
    """Return the distance that two samples of these sizes exceed by chance, c(a)·sqrt((n + m) / nm)
    with c(a) = sqrt(-ln(a / 2) / 2) (Smirnov 1948), a being shared by all numbers."""
    return sqrt(-log(_EACH / 2) / 2) * sqrt(1 / reference.independent + 1 / new.independent)


def distance(reference: tuple[float, ...], new: tuple[float, ...]) -> float:
    """Return the largest difference of two cumulative distributions, each known to 1 / STEPS."""
    import numpy as np

    old, now = np.asarray(reference), np.asarray(new)
    places = np.union1d(old, now)
    gap = np.abs(_share_below(old, places) - _share_below(now, places)).max()
    return max(0.0, float(gap) - 1 / STEPS)


def _share_below(quantiles: "np.ndarray", places: "np.ndarray") -> "np.ndarray":
    import numpy as np

    return np.searchsorted(quantiles, places, side="right") / len(quantiles)


def _distributions(reference: Profile, new: Profile) -> Iterator[Alarm]:
    chance = critical(reference, new)
    noise = 1 / reference.independent + 1 / new.independent
    for name in sorted(reference.quantiles.keys() & new.quantiles.keys() & NUMBERS.keys()):
        old, now = reference.quantiles[name], new.quantiles[name]
        gap = distance(old, now)
        if gap > chance:
            words = f"{NUMBERS[name]}: {_middle(name, old)} then, {_middle(name, now)} now"
            yield _alarm(gap, f"{words} (KS distance {gap:.2f}, by chance up to {chance:.2f})")
        else:
            yield from _tails(name, old, now, noise)


def _tails(
    name: str, old: tuple[float, ...], now: tuple[float, ...], noise: float
) -> Iterator[Alarm]:
    """Compare the shares of rows beyond quantiles that few rows were beyond: a small group that is far
    out moves no distribution."""
    import numpy as np

    for side, word in ((1, "above"), (-1, "below")):
        moves = []
        for share in _TAILS:
            edge = old[round((1 - share) * STEPS)] if side > 0 else old[round(share * STEPS)]
            # Known to 1 / STEPS, as the quantiles are.
            beyond = float((np.asarray(now) * side > edge * side).mean()) - 1 / STEPS
            if beyond - share > chance(share, beyond, noise):
                moves.append((beyond - share, share, beyond, edge))
        if moves:
            move, share, beyond, edge = max(moves)
            words = f"{NUMBERS[name]}: {beyond:.0%} of the rows are {word} {_plain(name, edge)}"
            yield _alarm(min(1.0, _TAILS_COUNT * move), f"{words}, as {share:.0%} were then")


def _plain(name: str, value: float) -> str:
    from math import expm1

    return f"{expm1(value):,.0f}" if name.endswith(("_chars", "_lines")) else f"{value:.3g}"


def _middle(name: str, quantiles: tuple[float, ...]) -> str:
    low, middle, high = (_plain(name, quantiles[place * STEPS // 10]) for place in (1, 5, 9))
    return f"{middle} ({low} to {high})"


def _flags(reference: Profile, new: Profile) -> Iterator[Alarm]:
    chance = critical(reference, new)
    for name in sorted(reference.shares.keys() & new.shares.keys() & FLAGS.keys()):
        old, now = reference.shares[name], new.shares[name]
        pooled = (old * reference.rows + now * new.rows) / (reference.rows + new.rows)
        # A share of 0.5 is known as well as a distribution, one near 0 or 1 better.
        if abs(now - old) > chance * 2 * sqrt(pooled * (1 - pooled)):
            words = f"{FLAGS[name]}: {old:.1%} of the rows then, {now:.1%} now"
            yield _alarm(min(1.0, _SHARES_COUNT * abs(now - old)), words)


def _make_up(reference: Profile, new: Profile) -> Iterator[Alarm]:
    change = new.rows / reference.rows
    if change < 1:
        yield _alarm(
            _SIZES_COUNT * 2 * (1 - change),
            f"{new.rows:,} rows, then {reference.rows:,} ({change:.0%})",
        )
    yield from _other_sources(reference, new)
    yield from _shares(reference, new)


def _other_sources(reference: Profile, new: Profile) -> Iterator[Alarm]:
    """Compare which sources there are. Where there is one each, it is mostly the file's name."""
    if len(reference.sources) == len(new.sources) == 1:
        return
    gone = sum(share for name, share in reference.sources.items() if name not in new.sources)
    come = sum(share for name, share in new.sources.items() if name not in reference.sources)
    number = sum(name not in new.sources for name in reference.sources)
    if number and gone:
        of = f"{number:,} of {len(reference.sources):,} sources"
        words = f"{of} are gone, which had {gone:.1%} of the rows"
        # Of more sources than are recorded, others may be among the largest next time.
        number_counts = number / len(reference.sources) if len(reference.sources) < SOURCES else 0
        yield _alarm(max(gone, number_counts) * _SOURCES_COUNT, words)
    if come:
        yield _alarm(
            come * _SOURCES_COUNT, f"{come:.1%} of the rows come from sources that are new"
        )


def _shares(reference: Profile, new: Profile) -> Iterator[Alarm]:
    """Compare what rows are made of, beyond what chance gives (PSI)."""
    sides = reference, new
    both = reference.sources.keys() & new.sources.keys()
    # Those that are gone or new are told by themselves; the record's hashes say nothing to a person.
    sources = [{name: side.sources[name] for name in both} for side in sides]
    counts = [
        side.independent * sum(shares.values()) for side, shares in zip(sides, sources, strict=True)
    ]
    if moved := _psi(sources[0], sources[1], counts[0], counts[1]):
        yield _alarm(_PSI_COUNT * moved, f"the same sources have other shares (PSI {moved:.2f})")
    counts = [side.independent * side.languages_of / max(side.rows, 1) for side in sides]
    if moved := _psi(reference.languages, new.languages, counts[0], counts[1]):
        words = f"languages of the questions: {_named(reference)} then, {_named(new)} now"
        yield _alarm(_PSI_COUNT * moved, f"{words} (PSI {moved:.2f})")


def _named(profile: Profile) -> str:
    common = [f"{code} {share:.0%}" for code, share in profile.languages.items() if share > _RARE]
    return ", ".join(common[:5])


def _psi(
    reference: Mapping[str, float], new: Mapping[str, float], count: float, other: float
) -> float:
    """Return the population stability index of two makeups, each of so many independent rows; 0 where
    chance gives as much. Categories that are rare in both are one."""
    from scipy.stats import chi2

    common = [
        name
        for name in sorted(reference.keys() | new.keys())
        if max(reference.get(name, 0), new.get(name, 0)) > _RARE
    ]
    if not common or min(count, other) < LEAST_ROWS / 4:
        return 0.0
    least = 0.5 / min(count, other)  # half a row, where there is none
    old, now = (_made_up(shares, common, least) for shares in (reference, new))
    moved = sum((b - a) * log(b / a) for a, b in zip(old, now, strict=True))
    # Of two samples of one makeup, PSI times nm / (n + m) is distributed as chi2.
    chance = chi2.isf(_EACH, max(1, len(old) - 1)) * (1 / count + 1 / other)
    return moved if moved > chance else 0.0


def _made_up(shares: Mapping[str, float], common: list[str], least: float) -> list[float]:
    """Return the shares of `common` categories and of all others together, none below `least`."""
    total = sum(shares.values())
    known = [shares.get(name, 0.0) / total for name in common]
    return [max(share, least) for share in (*known, 1 - sum(known))]


def _lengths(reference: Profile, new: Profile) -> Iterator[Alarm]:
    """Compare how the lengths of questions and answers go together (Fisher's z)."""
    from scipy.stats import norm

    old, now = reference.lengths_correlation, new.lengths_correlation
    noise = sqrt(sum(1 / max(p.independent - 3, 1) for p in (reference, new)))
    bounded = (max(-0.999, min(0.999, value)) for value in (old, now))
    gap = abs(atanh(next(bounded)) - atanh(next(bounded)))
    if gap > norm.isf(_EACH / 2) * noise:
        yield _alarm(
            _LENGTHS_COUNT * abs(now - old),
            "lengths of question and answer go together otherwise: correlation "
            f"{old:.2f} then, {now:.2f} now",
        )


def _topics(reference: Profile, new: Profile) -> Iterator[Alarm]:
    """Compare the words of questions: total variation beyond what chance gives."""
    import numpy as np

    old, now = np.asarray(reference.topics), np.asarray(new.topics)
    if min(reference.topics_of, new.topics_of) < 10 * len(old) or len(old) != len(now):
        return
    gap = float(np.abs(old - now).sum() / 2)
    mean = (old + now) / 2
    # The mean of |x - y| of two shares is sqrt(2 / pi) of its standard deviation. Words of one question
    # go together, so that there is less to count than words.
    each = np.sqrt(mean * (1 / reference.sampled + 1 / new.sampled))
    chance = float(sqrt(2 / np.pi) * each.sum() / 2)
    words_each = max(reference.topics_of / reference.sampled, 1)
    chance = chance / sqrt(words_each) * 2
    if gap > chance:
        yield _alarm(
            (gap - chance) * _TOPICS_COUNT,
            "questions speak of other things: their words differ by "
            f"{gap:.0%}, by chance by {chance:.0%}",
        )


def _alarm(value: float, sentence: str) -> Alarm:
    return Alarm(expectation="profile_drift", value=min(1.0, value), sentence=sentence, quote="")
