"""In which order an answer says it: lists that count up, each in lines of its own, what is said first and
last, and whether both halves are about one thing.

Nothing of it depends on which words are said. Texts whose pieces were shuffled, turned around, joined or
taken from several places keep their words, and lose this.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

from expectations.data.profile.alarms import LEAST_GROUP
from expectations.data.profile.shapes import Group

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

_ENTRY = r"(?m)^[ \t]*\d{1,3}[.)][ \t]"
_ENTRIES = 3  # of a list; of fewer the order tells nothing
_COUNTS_UP = 1 / 3  # of the steps from entry to entry; of sound lists nearly all do
_JOINED = (
    # Three entries within one line, by numbers or by dashes, or a code fence behind other text.
    r"(?:^|\n|\S )1[.)] [^\n]+\S 2[.)] [^\n]+\S 3[.)] ",
    r"\S - [^\n]+[.;] - [^\n]+[.;] - ",
)
_FENCE_INSIDE = r"\S ```\w* ?\S[^\n]*$"
_LONG = 800  # characters of an answer that has several lines, as a rule
_UNIT = r"[^.!?\n。！？]*[\p{L}\p{N}][^.!?\n。！？]{10,}[.!?。！？]*"
_UNITS = 4  # sentences or lines of an answer whose first is told from its last
_WORD = r"\p{L}+(?:['’]\p{L}+)?|[:!?]"
_TELLING = 2.0  # log odds by their words that first and last sentence stand right, or the reverse
_ENOUGH, _PRIOR = 300, 5  # answers, and how often a word is taken to be on both sides beside that
_AS_MANY = 0.6  # of those that stand right; sentences of a few templates tell both ways
_HALF_WORDS = 25  # of four letters and more in either half
_ALIKE = 0.25  # of how much two halves usually share; of fewer they are about different things
_LINE = 60  # characters of a line that is not said twice by chance


def order(frame: "pl.DataFrame") -> Iterator[Group]:
    """Yield groups of answers: `frame` has `answer` and `prose` (that without its code)."""
    import polars as pl

    text, answer = pl.col("prose"), pl.col("answer")
    joined = pl.any_horizontal(
        *(text.str.contains(pattern) for pattern in _JOINED), answer.str.contains(_FENCE_INSIDE)
    )
    words = "run their lists or code together in one line"
    yield Group(words, 0.04, frame.select(joined).to_series().to_numpy(), "answer")
    stripped = answer.str.strip_chars()
    one_line = (stripped.str.len_chars() > _LONG) & ~stripped.str.contains("\n", literal=True)
    words = "are long and have a single line, where the others have several"
    yield Group(words, 0.08, frame.select(one_line).to_series().to_numpy(), "answer")
    words = "number their lists in no order"
    yield Group(words, 0.06, _out_of_order(frame), "answer")
    words = "say one and the same line twice"
    yield Group(words, 0.06, _said_twice(frame), "answer")
    words = "begin as the others end, and end as they begin"
    yield Group(words, 0.08, _turned_around(frame), "answer")
    words = "are about one thing in their first half and another one in their second"
    yield Group(words, 0.05, _in_two(frame), "end")


def _out_of_order(frame: "pl.DataFrame") -> "np.ndarray":
    """Return which answers have lists whose numbers hardly ever are followed by the next one."""
    import polars as pl

    numbers = frame.select(
        pl.col("answer")
        .str.extract_all(_ENTRY)
        .list.eval(pl.element().str.extract(r"(\d+)").cast(pl.Int32))
    ).to_series()
    return pl.Series([_counts_down(entries) for entries in numbers], dtype=pl.Boolean).to_numpy()


def _counts_down(entries: "pl.Series") -> bool:
    if len(entries) < _ENTRIES:
        return False
    steps = [after - before == 1 for before, after in pairwise(entries)]
    return sum(steps) < _COUNTS_UP * len(steps)


def _said_twice(frame: "pl.DataFrame") -> "np.ndarray":
    import polars as pl

    lines = pl.col("prose").str.split("\n").list.eval(pl.element().str.strip_chars())
    long = lines.list.eval(pl.element().filter(pl.element().str.len_chars() >= _LINE))
    return frame.select(long.list.n_unique() < long.list.len()).to_series().to_numpy()


def _turned_around(frame: "pl.DataFrame") -> "np.ndarray":
    """Return which answers are more likely read from their end: by the words of first and last
    sentences of all others."""
    import numpy as np
    import polars as pl

    units = frame.select(units=pl.col("prose").str.extract_all(_UNIT)).with_row_index("place")
    units = units.filter(pl.col("units").list.len() >= _UNITS)
    turned = np.zeros(len(frame), dtype=bool)
    if len(units) < _ENOUGH:
        return turned
    sides = [
        units.select("place", word=unit.str.to_lowercase().str.extract_all(_WORD).list.unique())
        .explode("word")
        .drop_nulls()
        for unit in (pl.col("units").list.first(), pl.col("units").list.last())
    ]
    # A word of both sides tells nothing.
    first, last = (
        one.join(other, on=["place", "word"], how="anti") for one, other in (sides, reversed(sides))
    )
    counts = (
        first["word"]
        .value_counts(name="first")
        .join(last["word"].value_counts(name="last"), on="word", how="full", coalesce=True)
    )
    counts = counts.fill_null(0)
    before = (
        (pl.col("first") - 1 + _PRIOR) / (pl.col("last") + _PRIOR)
    ).log()  # without the answer itself
    after = ((pl.col("last") - 1 + _PRIOR) / (pl.col("first") + _PRIOR)).log()
    odds = pl.concat(
        side.join(counts, on="word").select("place", odds=odds)
        for side, odds in ((first, before), (last, after))
    )
    sums = odds.group_by("place").agg(pl.col("odds").sum())
    back = sums.filter(pl.col("odds") < -_TELLING)["place"].to_numpy()
    if len(back) >= _AS_MANY * sums.filter(pl.col("odds") > _TELLING).height:
        turned[back] = True
    return turned


def _in_two(frame: "pl.DataFrame") -> "np.ndarray":
    """Return which answers have two halves that share hardly a word, where those of others share many."""
    import numpy as np
    import polars as pl
    from scipy.sparse import diags

    from expectations.data.profile.bags import bag, rare

    half = pl.col("prose").str.len_chars() // 2
    halves = frame.select(pl.col("prose").str.head(half), rest=pl.col("prose").str.slice(half))
    sides = [bag(side) for side in halves]
    long = np.minimum(*(np.diff(side.indptr) for side in sides)) >= _HALF_WORDS
    if long.sum() < 2 * LEAST_GROUP:
        return long & False
    weight = rare(*sides)
    weight[np.asarray(sum(side.sum(axis=0) for side in sides)).ravel() < 2] = 0
    one, other = (side @ diags(weight) for side in sides)
    lengths = [
        np.sqrt(np.asarray(side.multiply(side).sum(axis=1)).ravel()) for side in (one, other)
    ]
    shared = np.asarray(one.multiply(other).sum(axis=1)).ravel()
    alike = shared / np.maximum(lengths[0] * lengths[1], 1e-9)
    return long & (alike < _ALIKE * np.median(alike[long]))
