"""Groups of answers that are far from all others in one number, with hardly any in between."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from expectations.data.profile.alarms import LEAST_GROUP, Alarm, share_alarm
from expectations.data.profile.averages import median
from expectations.data.profile.numbers import MEASURED
from expectations.data.profile.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    Told = Callable[[np.ndarray], bool]

# Numbers of answers of which a group far from the rest is named.
_SPREAD = (
    *("answer_chars", "answer_symbols", "answer_digits", "answer_upper", "answer_non_ascii"),
    *("answer_invisible", "answer_marks", "answer_spaces", "answer_question_marks", "compression"),
)
_FAR = 0.85  # of the variance lies between the two groups; of one bell curve it is 0.64
_GROUP = (0.03, 0.45)  # least and largest share of a group that is far from the rest
_LEAST_DISTANCE = {"answer_chars": 1.6, "compression": 0.2}  # of the means; 0.05 for shares
_AT_A_TIME = 500_000  # values; bounds memory
_TELLING = 40  # characters; of shorter answers, one sign makes a share


def groups(frame: Table, told: "Told") -> Iterator[Alarm]:
    """Yield an alarm for each number in which a group of answers is far from all others."""
    import numpy as np

    total = len(frame)
    if np.expm1(median(frame["answer_chars"])) < _TELLING:
        return
    for name in _SPREAD:
        values = frame[name].to_numpy()
        group = far_group(
            values, _LEAST_DISTANCE.get(name, 0.05 if name != "answer_invisible" else 0.01)
        )
        if group is None or group.sum() < LEAST_GROUP or told(group):
            continue
        title = MEASURED[name].removesuffix(" of the answer").removesuffix(" in the answer")
        apart = (
            f"{_shown(name, values[group])} where the others have {_shown(name, values[~group])}"
        )
        words = f"are far from the rest, whatever is asked: {title} {apart}"
        yield share_alarm("doubtful_masses", frame["row"].to_numpy()[group], total, words)


def far_group(values: "np.ndarray", least_distance: float) -> "np.ndarray | None":
    """Return which values form the smaller of two groups with a wide gap between, None if they don't."""
    import numpy as np

    if len(values) < 2 * LEAST_GROUP:
        return None
    apart, upper = cut(values)
    share = min(upper.mean(), 1 - upper.mean())
    least, most = _GROUP
    if apart < _FAR or not least <= share <= most:
        return None
    if abs(np.mean(values[upper]) - np.mean(values[~upper])) < least_distance:
        return None
    return upper if upper.mean() <= 0.5 else ~upper


def cut(values: "np.ndarray", least: float = 0.0) -> "tuple[float, np.ndarray]":
    """Return how much of the variance lies between the two groups that are farthest apart (Otsu
    1979), 0 to 1, and which values are in the upper one; neither is a smaller share than `least`."""
    import numpy as np

    ordered = np.sort(values.astype(np.float64))
    count, spread = len(ordered), ordered.var()
    if count < 2 or spread <= 0:
        return 0.0, np.zeros(count, dtype=bool)
    edge = int(least * count)
    total, below, most, place = ordered.sum(), 0.0, -1.0, edge
    for start in range(0, count - 1, _AT_A_TIME):
        sums = ordered[start : min(start + _AT_A_TIME, count - 1)].copy()
        sums[0] += below
        below = np.cumsum(sums, out=sums)[-1]
        between = _between(sums, np.arange(start + 1, start + 1 + len(sums)), total, count)
        inside = between[max(edge - start, 0) : max(count - 1 - edge - start, 0)]
        if len(inside) and inside.max() > most:
            most, place = inside.max(), max(start, edge) + int(inside.argmax())
    return float(most / spread), values > (ordered[place] + ordered[place + 1]) / 2


def _between(sums: "np.ndarray", below: "np.ndarray", total: float, count: int) -> "np.ndarray":
    """Return the variance between two groups, the lower of which has `below` of the values, and these
    `sums`."""
    low, high = sums / below, (total - sums) / (count - below)
    return below / count * (1 - below / count) * (high - low) ** 2


def _shown(name: str, values: "np.ndarray") -> str:
    import numpy as np

    middle = float(np.median(values))
    return f"{np.expm1(middle):,.0f}" if name == "answer_chars" else f"{middle:.2f}"
