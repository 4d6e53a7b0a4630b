"""What first questions have in common where they are no people's: one template for question and answer,
or a label in the place of a question.

The question always tells these, and so it is no excuse for them.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from expectations.data.profile.alarms import LEAST_GROUP
from expectations.data.profile.shapes import Group, frame_mask
from expectations.data.profile.wording import sharing, words_of

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

_HEAD = 300  # characters of a question
_IN_A_ROW = 5  # words that a template has between its slots
_TEMPLATE, _SAME_ANSWERS, _MOST = 0.06, 0.7, 0.45  # shares: of rows, of their answers, of rows
_LABEL, _LABEL_WORDS = 80, 6  # characters and words of a label, at most
_SAID, _LABELS = 0.005, 0.05  # share of openings with a word of labels; of rows with one
_ANSWERED = 200  # characters of an answer to more than a greeting


def openings(frame: "pl.DataFrame") -> Iterator[Group]:
    """Yield groups of rows: `frame` has `answer`, `before` (the question before the last one, null where
    there is none) and `opening` (the first question)."""
    words = "come from one template, question and answer"
    yield Group(words, _TEMPLATE, _templated(frame), "both")
    words = "answer a few words that are those of many others, where the others ask"
    yield Group(words, _LABELS, _labelled(frame), "both")


def _templated(frame: "pl.DataFrame") -> "np.ndarray":
    """Return which openings say the five words that most say, if their answers share as many."""
    import numpy as np

    group = _sharing(frame["opening"].str.head(_HEAD))
    inside = np.flatnonzero(group)
    if len(inside) >= _TEMPLATE * len(frame):
        answers = _sharing(frame["answer"].gather(inside), most=1.0)
        if answers.mean() >= _SAME_ANSWERS:
            return group
    return group & False


def _sharing(texts: "pl.Series", most: float = _MOST) -> "np.ndarray":
    words = words_of(texts)
    first = ~texts.is_duplicated().to_numpy()
    return sharing(first, words["place"].to_numpy(), words["hash"].to_numpy(), _IN_A_ROW, most)


def _labelled(frame: "pl.DataFrame") -> "np.ndarray":
    """Return which rows of one question have only words in it that many such short ones have."""
    import polars as pl

    is_short = (pl.col("opening").str.len_chars() <= _LABEL) & pl.col("before").is_null()
    short = frame.with_row_index("place").filter(
        is_short & (pl.col("answer").str.len_chars() >= _ANSWERED)
    )
    words = (
        short.select("place", word=pl.col("opening").str.to_lowercase().str.extract_all(r"\p{L}+"))
        .filter(pl.col("word").list.len().is_between(1, _LABEL_WORDS))
        .explode("word")
        .unique()
    )
    often = (
        words.with_columns(said=pl.len().over("word")).group_by("place").agg(pl.col("said").min())
    )
    least = max(LEAST_GROUP / 2, _SAID * len(frame))
    group = frame_mask(often.filter(pl.col("said") >= least)["place"], len(frame))
    return group if group.mean() <= _MOST else group & False
