"""With which sentences answers begin and end: a few that many have, of a tool or a script that was told
to vary its phrases, or one where the others go on."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from expectations.data.profile.alarms import LEAST_GROUP
from expectations.data.profile.averages import median
from expectations.data.profile.shapes import Group

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

_EDGE = 200  # characters in which a sentence ends
_FIRST = r"^([^\n.!?:]{12,120}[.!?:])\s"
_LAST = r"[.!?:\n]\s*([^\n.!?]{12,120}[.!?])$"
_AGAIN = 0.008  # share of different answers with one sentence, from which it is one of a few
_SELDOM = 0.3  # as many answers whose sentence fewer say; of what is made from templates it is more
_SHARE, _MOST = 0.06, 0.3
_SHORT = 0.4  # of the middle length; long answers may well end with a wish
_LONG = 300  # characters of the middle answer, where the others go on
_SINGLE = 0.1


def ends(frame: "pl.DataFrame") -> Iterator[Group]:
    """Yield groups of answers: `frame` has `answer` and `prose` (that without its code)."""
    import polars as pl

    text = pl.col("prose").str.strip_chars()
    head = pl.col("prose").str.strip_chars_start().str.head(_EDGE).str.to_lowercase()
    tail = pl.col("prose").str.strip_chars_end().str.tail(_EDGE).str.to_lowercase()
    found = frame.select(
        first=head.str.extract(_FIRST),
        last=tail.str.extract(_LAST),
        chars=pl.col("answer").str.len_chars(),
        once=~pl.col("answer").is_duplicated(),
        single=~text.str.contains("\n", literal=True)
        & (text.str.count_matches(r"[.!?:。！？](?:\s|$)") <= 1),
    )
    usual = median(found["chars"])
    words = "begin with one of a few sentences, whatever is asked"
    yield Group(words, _SHARE, _one_of_few(found, "first"), "answer")
    words = "are short and end with one of a few sentences, whatever is asked"
    short = (found["chars"] <= _SHORT * usual).to_numpy()
    yield Group(words, _SHARE, _one_of_few(found, "last") & short, "end")
    single = found.select(pl.col("single") & pl.col("once")).to_series().to_numpy()
    words = "are a single sentence, whatever is asked, where the others go on"
    yield Group(words, _SINGLE, single & (usual >= _LONG), "answer")


def _one_of_few(found: "pl.DataFrame", name: str) -> "np.ndarray":
    """Return which different answers have a sentence that others of these have as well."""
    import polars as pl

    sentences = found.select(pl.when("once").then(name)).to_series()
    counts = sentences.drop_nulls().value_counts().filter(pl.col("count") > 1)
    is_often = pl.col("count") >= max(LEAST_GROUP, _AGAIN * len(found))
    often, seldom = counts.filter(is_often), counts.filter(~is_often)
    if int(seldom["count"].sum()) > _SELDOM * int(often["count"].sum()):
        often = often.clear()
    said = often[sentences.name].implode()
    group: np.ndarray = sentences.is_in(said).fill_null(False).to_numpy()
    return group if group.mean() <= _MOST else group & False
