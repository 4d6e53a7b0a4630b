"""A way of writing that no question asks for: words that come together in a part of the answers.

Of what an answer says, much follows from its question, and the rest varies a little with everything. A
part of the answers that was written by someone else, or went through something, says many words that the
others do not. Independent components (Hyvärinen's FastICA, on the words of the set itself) find
such a part without knowing what to look for: along one of them the answers fall into two groups.
"""

from typing import TYPE_CHECKING, NamedTuple

from expectations.data.batches import spread
from expectations.data.profile.alarms import LEAST_GROUP
from expectations.data.profile.shapes import HEAD

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import polars as pl

    Told = Callable[[np.ndarray], bool]
    Contrast = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]

_LEAST_CHARS = 150  # of an answer that has a way of writing
_WORD = r"\p{L}+(?:['’]\p{L}*)?|[^\p{L}\p{N}\s]+"
# Share of answers that say a word: of fewer it is a topic's, of more everybody's.
_COMMON = (0.03, 0.7)
_WORDS = 600  # at most
_ONCE = 0.2  # share of the words that one answer says, at least: of templates it is none, of people's 0.4
_ROWS = 1_500  # at most, spread evenly
_ADDRESS = r"https?://\S+"
_COMPONENTS = 12
_STEPS, _CLOSE = 200, 1e-4
_APART = 0.78  # of the variance lies between the two groups; of one bell curve it is 0.64
_GROUP, _LEAST = (0.04, 0.45), 20  # share of the smaller group, and answers in it
_OFTENER = 0.3  # how much more of the group say a word of its style
_ALL = 0.85  # share of the group that say a word, from which it is no choice of words
_TYPICAL = 7  # words
_NAMED = 5  # words


class Style(NamedTuple):
    """Places in the sample, of those that were looked at, and the words that they have in common."""

    places: "np.ndarray"
    looked_at: int
    words: list[str]


def style(frame: "pl.DataFrame", told: "Told") -> Style | None:
    """Return the answers that are written another way than the rest, None if there are none.

    `frame` has `prose` (answers without their code); `told` says whether the question or the source tells
    which are in a group (a boolean per line).
    """
    import polars as pl
    from threadpoolctl import threadpool_limits

    heads = frame.select(
        prose=pl.col("prose").str.replace_all(_ADDRESS, " ").str.head(HEAD)
    ).with_row_index("place")
    long = heads.filter(pl.col("prose").str.len_chars() >= _LEAST_CHARS)
    long = spread(long, _ROWS)
    table, words = _presence(long)
    if len(long) < 4 * _COMPONENTS or len(words) < 2 * _COMPONENTS:
        return None
    # On matrices as small as these, a second thread of the linear algebra waits more than it computes,
    # and takes ten times the CPU seconds.
    with threadpool_limits(1, user_api="blas"):
        rest = _beyond_length(table, long["prose"].str.len_chars().to_numpy())
        components = _components(rest).T
    return _first_style(components, table, words, long["place"].to_numpy(), len(frame), told)


def _first_style(
    components: "np.ndarray",
    table: "np.ndarray",
    words: list[str],
    places: "np.ndarray",
    count: int,
    told: "Told",
) -> Style | None:
    """Return the group of the component that splits the texts best and is a way of writing; `places` are
    those of the texts among `count` lines."""
    import numpy as np

    for values in sorted(components, key=lambda values: -_split(values)[0]):
        apart, inside = _split(values)
        if apart < _APART:
            return None
        group = np.zeros(count, dtype=bool)
        group[places[inside]] = True
        share = table[inside].mean(axis=0)
        oftener = share - table[~inside].mean(axis=0)
        # What all of them say is a sentence of a template.
        has_many = ((oftener >= _OFTENER) & (share <= _ALL)).sum() >= _TYPICAL
        if has_many and inside.sum() >= _LEAST and not told(group):
            top = np.argsort(-oftener, kind="stable")[:_NAMED]
            return Style(places[inside], len(places), [words[place] for place in top])
    return None


def _presence(texts: "pl.DataFrame") -> "tuple[np.ndarray, list[str]]":
    """Return which of the common words each text says, texts x words, and the words; none of texts that
    come from templates."""
    import numpy as np
    import polars as pl

    said = (
        texts.select(word=pl.col("prose").str.to_lowercase().str.extract_all(_WORD).list.unique())
        .with_row_index("place")
        .explode("word")
        .drop_nulls()
    )
    counts = said["word"].value_counts()
    if (counts["count"] == 1).sum() < _ONCE * len(counts):
        return np.zeros((len(texts), 0)), []
    least, most = (share * len(texts) for share in _COMMON)
    counts = counts.filter(pl.col("count").is_between(max(LEAST_GROUP, least), most))
    # Of two that are as frequent, always the same one.
    words = counts.sort("count", "word", descending=[True, False])["word"].head(_WORDS)
    index = pl.DataFrame({"word": words}).with_row_index("column")
    found = said.join(index, on="word")
    table = np.zeros((len(texts), len(words)))
    table[found["place"].to_numpy(), found["column"].to_numpy()] = 1
    return table, words.to_list()


def _beyond_length(table: "np.ndarray", chars: "np.ndarray") -> "np.ndarray":
    """Return the columns without what the length of a text explains, each of variance 1."""
    import numpy as np

    long = np.log(chars)
    basis = np.column_stack([np.ones(len(long)), long, long**2])
    rest = table - basis @ np.linalg.lstsq(basis, table, rcond=None)[0]
    scaled: np.ndarray = rest / np.maximum(rest.std(axis=0), 1e-9)
    return scaled


def _components(table: "np.ndarray") -> "np.ndarray":
    """Return components of the columns, one column each: the principal ones, and those turned so that
    they are skewed, or peaked or split, as much as can be."""
    import numpy as np

    left, _, _ = np.linalg.svd(table, full_matrices=False)
    white = left[:, :_COMPONENTS] * np.sqrt(len(table))

    def bent(values: "np.ndarray") -> "tuple[np.ndarray, np.ndarray]":
        curve = np.tanh(values)
        return curve, (1 - curve**2).mean(axis=0)

    def skewed(values: "np.ndarray") -> "tuple[np.ndarray, np.ndarray]":
        return values**2, np.zeros(_COMPONENTS)

    # A fifth of the answers makes two groups that are as peaked as one bell curve, but skewed; a
    # half makes two that are not skewed.
    return np.hstack([white, _turned(white, bent), _turned(white, skewed)])


def _turned(white: "np.ndarray", contrast: "Contrast") -> "np.ndarray":
    """Return independent components by a contrast (its derivative, and the mean of the second one)."""
    import numpy as np

    generator = np.random.default_rng(0)
    turn = np.linalg.qr(generator.normal(size=(_COMPONENTS, _COMPONENTS)))[0]
    for _ in range(_STEPS):
        slope, curvature = contrast(white @ turn.T)
        new = slope.T @ white / len(white) - curvature[:, None] * turn
        one, _, other = np.linalg.svd(new, full_matrices=False)
        before, turn = turn, one @ other
        if np.abs(np.abs((turn * before).sum(axis=1)) - 1).max() < _CLOSE:
            break
    found: np.ndarray = white @ turn.T
    return found


def _split(values: "np.ndarray") -> "tuple[float, np.ndarray]":
    """Return how much of the variance lies between the two groups that are farthest apart, 0 to 1,
    and which texts are in the smaller one."""
    from expectations.data.profile.gaps import cut

    apart, upper = cut(values, _GROUP[0])
    inside = upper if upper.mean() <= 0.5 else ~upper
    return (apart, inside) if _GROUP[0] <= inside.mean() <= _GROUP[1] else (0.0, inside)
