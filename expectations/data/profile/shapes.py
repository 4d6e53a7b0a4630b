"""What the lines of answers have in common but for their words: heads and feet that a tool puts around a
text, labels that count, lines in the order of the alphabet, breaks at a page's width.

No word is looked for: a line is known by where its numbers and marks stand.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from expectations.data.profile.alarms import LEAST_GROUP, Quote

if TYPE_CHECKING:
    import numpy as np
    import polars as pl


class Group(NamedTuple):
    """What answers do, the share (0 to 1) from which it is named, which of them do it, what of one is
    quoted, and among which the question may tell of them (None: of all)."""

    words: str
    share: float
    rows: "np.ndarray"
    quote: Quote
    among: "np.ndarray | None" = None


HEAD = 1_500  # characters of an answer whose single words and marks are looked at
_LEAST_SHARE = 0.05
_NUMBERS = 2  # of a line with fewer, many have the same shape by chance
_COUNTED = r"[=+*×÷^%$€£]"  # sums and prices are what an answer says
_SINGLE, _SINGLES = r"^\s*[!-~]{3,}\s*$", 0.04  # and the share of answers that are one
_LONGEST_LINE = 160
_FORM = 4  # characters of a mark in brackets; [w] is an aside of a text
_RECURS = 3  # lines of one form in an answer
_LABEL = r"^\s*([\[(<{][^\[\](){}<>\n]{1,30}[\])>}]|(?:[\p{L}\p{N}_#.-]+ ?){1,3}[:：>])"
_SORTED = 6  # lines; of as many, one order in 720 is the alphabet's
_BREAKS, _WRAPPED = 3, 0.4  # breaks within a sentence; their share of all breaks


def shapes(frame: "pl.DataFrame") -> Iterator[Group]:
    """Yield groups of answers: `frame` has `answer` and `prose` (that without its code)."""
    import polars as pl

    text = pl.col("prose").str.strip_chars()
    lines = frame.select(
        first=text.str.extract(r"^([^\n]{1,160})\n"),
        last=text.str.tail(400).str.extract(r"\n([^\n]{1,160})$"),
        label=pl.col("prose").str.head(60).str.extract(_LABEL),
    )
    again = frame["answer"].is_duplicated()
    ends: tuple[tuple[str, str, Quote], ...] = (
        ("first", "begin", "answer"),
        ("last", "end", "end"),
    )
    for name, end, quote in ends:
        shape = lines.select(_shape(name)).to_series()
        words = f"{end} with one line but for its words and numbers"
        yield Group(words, _LEAST_SHARE, _most_frequent(shape, again), quote)
    # Labels are single words as well, and are given again.
    single = frame.select(pl.col("prose").str.contains(_SINGLE)).to_series() & ~again
    yield Group("are a single word or number", _SINGLES, single.to_numpy(), "answer")
    words = "hold lines of one form but for their words and numbers"
    yield Group(words, _LEAST_SHARE, _recurring(frame, again), "answer")
    words = "begin with a mark in brackets"
    yield Group(words, _LEAST_SHARE, _bracketed(lines, again), "answer")
    words = "begin with one label but for its number"
    yield Group(words, _LEAST_SHARE, _numbered(lines, again), "answer")
    sorted_lines = [_is_sorted(answer) for answer in frame["answer"]]
    in_order = pl.Series(sorted_lines, dtype=pl.Boolean).to_numpy()
    words = "have their lines in the order of the alphabet"
    yield Group(words, _LEAST_SHARE, in_order, "answer")
    breaks = frame.select(
        inner=text.str.count_matches(r"[\p{L},=-]\n\p{Ll}+[ ,.;:]"),
        every=text.str.count_matches(r"\n"),
    )
    wrapped = (breaks["inner"] >= _BREAKS) & (breaks["inner"] >= _WRAPPED * breaks["every"])
    words = "break their lines within sentences"
    yield Group(words, 0.04, wrapped.to_numpy(), "answer")


def frequencies(values: "pl.Series", most: int) -> "pl.DataFrame":
    """Return at most `most` values with their `count`, the most frequent first; where two are as
    frequent, always the same one is."""
    counts = _counts(values.drop_nulls())
    if counts.is_empty():
        return counts
    # Only what may be returned is sorted: many values are texts.
    least = counts["count"].top_k(most).min()
    frequent = counts.filter(counts["count"] >= least)
    return frequent.sort("count", values.name, descending=[True, False]).head(most)


def _counts(values: "pl.Series") -> "pl.DataFrame":
    """Return the different values, each with its `count`. Hashes are sorted: a table of as many as
    there are rows takes several times as much memory."""
    import numpy as np
    import polars as pl

    if values.dtype != pl.UInt64:
        return values.value_counts()
    ordered = np.sort(values.to_numpy())
    changes = ordered[1:] != ordered[:-1]
    begins = np.flatnonzero(np.append(np.ones(min(1, len(ordered)), dtype=bool), changes))
    times = np.diff(begins, append=len(ordered)).astype(np.uint32)
    return pl.DataFrame({values.name: ordered[begins], "count": times})


def frame_mask(places: "pl.Series", count: int) -> "np.ndarray":
    """Return a boolean for each of `count` lines: whether it is one of `places`."""
    import numpy as np

    mask = np.zeros(count, dtype=bool)
    mask[places.to_numpy()] = True
    return mask


def _shape(name: str) -> "pl.Expr":
    """Return what a line is but for its words and numbers, null of one that has few numbers."""
    import polars as pl

    line = pl.col(name)
    # The number of a list's entry is not the line's.
    shape = (
        line.str.replace(r"^\s*\p{N}{1,3}[.)]\s", "")
        .str.replace_all(r"[\p{L}\p{N}\p{M}_'’-]*[\p{L}_][\p{L}\p{N}\p{M}_'’-]*", "w")
        .str.replace_all(r"\p{N}+", "0")
        .str.replace_all(r"w(?: w)+", "w")
    )
    telling = (shape.str.count_matches("0") >= _NUMBERS) & ~line.str.contains(_COUNTED)
    return pl.when(telling).then(shape)


def _most_frequent(values: "pl.Series", again: "pl.Series") -> "np.ndarray":
    """Return which answers have the value that most different answers have; `again` are the others."""
    counts = frequencies(values.filter(~again), 1)
    if counts.is_empty():
        return (values.is_null() & False).to_numpy()
    return (values == counts[values.name][0]).fill_null(False).to_numpy()


def _recurring(frame: "pl.DataFrame", again: "pl.Series") -> "np.ndarray":
    """Return which answers have several lines of the form that most different answers have several of."""
    import polars as pl

    line = pl.col("prose").str.head(HEAD).str.split("\n")
    lines = (
        frame.select(line=line)
        .with_row_index("place")
        .explode("line")
        .filter(pl.col("line").str.len_chars().is_between(1, _LONGEST_LINE))
        .with_columns(shape=_shape("line"))
        .drop_nulls()
    )
    several = lines.group_by("place", "shape").len().filter(pl.col("len") >= _RECURS)
    once = several.filter(~again.gather(several["place"]))
    counts = frequencies(once["shape"], 1)
    if counts.is_empty():
        return (again & False).to_numpy()
    places = several.filter(pl.col("shape") == counts["shape"][0])["place"]
    return frame_mask(places, len(frame))


def _bracketed(lines: "pl.DataFrame", again: "pl.Series") -> "np.ndarray":
    """Return which answers begin with the form of a mark in brackets (<@w>) that most begin with."""
    import polars as pl

    form = pl.col("label").str.replace_all(r"[\p{L}\p{N}][\p{L}\p{N} _'’.-]*", "w")
    inside = pl.col("label").str.contains(r"^\s*[\[(<{]") & (form.str.len_chars() >= _FORM)
    return _most_frequent(lines.select(pl.when(inside).then(form)).to_series(), again)


def _numbered(lines: "pl.DataFrame", again: "pl.Series") -> "np.ndarray":
    """Return which answers begin with the label of which there are most, in several numbers."""
    import polars as pl

    # A letter by itself counts as well: Response A, Response B.
    mould = pl.col("label").str.replace_all(r"\d+|\b[A-Z]\b", "0")
    labels = lines.select("label", mould=pl.when(mould != pl.col("label")).then(mould))
    counts = (
        labels.filter(~again)
        .drop_nulls()
        .group_by("mould")
        .agg(pl.len(), pl.col("label").value_counts(sort=True).struct.field("count").alias("each"))
        .filter(pl.col("each").list.get(1, null_on_oob=True) >= LEAST_GROUP)
        .sort("len", "mould", descending=[True, False])
    )
    if counts.is_empty():
        return (labels["mould"].is_null() & False).to_numpy()
    return (labels["mould"] == counts["mould"][0]).fill_null(False).to_numpy()


def _is_sorted(answer: str) -> bool:
    """Tell whether an answer of several lines that no number or mark begins has them sorted."""
    lines = [line for line in answer.split("\n") if line.strip()]
    if len(lines) < _SORTED or sum(line[:1].isalpha() for line in lines) < _SORTED:
        return False
    return all(one <= other for one, other in pairwise(lines))
