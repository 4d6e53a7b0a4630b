"""What questions have in common, and what answers have of their own question or conversation.

The question always tells these, and so it is no excuse for them.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from expectations.data.profile.shapes import Group, frame_mask, frequencies
from expectations.data.profile.wording import sharing, words_of

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    Told = Callable[[np.ndarray], bool]

LONGEST = 4_000  # characters of a text of the sample
_SAME_QUESTION = 0.1  # share of rows
_FEW_QUESTIONS = 0.5  # share of different questions below which a dataset is of few on purpose
_LEAST_CUT, _CUT = 30, 0.03  # characters of questions that were cut there, and their share
_HELD = 60  # characters of an answer's beginning that its question holds
_QUOTED, _FIRST, _END = (15, 40), 10, 1_200  # characters of a question; of the end of an answer
_SHARED = 0.05  # share of questions that say the same eight words
_BLOCK = 0.95  # share of the rows from one on, so that they begin there
_AGAIN, _LONG = 0.03, 40  # share of answers that stand in their conversation before; characters


def of_questions(frame: "pl.DataFrame", by_source: "Told") -> Iterator[Group]:
    """Yield groups of rows by their questions: `frame` has `question`, `answer`, `replied` (the answer
    before, null where there is none) and `opening` (the first question); `by_source` says whether the
    source tells which are in a group."""
    import polars as pl

    asked = frame["question"].str.strip_chars().str.to_lowercase()
    if asked.n_unique() >= _FEW_QUESTIONS * len(frame):
        same = (asked == frequencies(asked, 1)[asked.name][0]).to_numpy()
        yield Group("have one and the same question", _SAME_QUESTION, same, "question")
        shared = _sharing(frame["opening"])
        if not by_source(shared):
            yield Group(_shared_words(shared), _SHARED, shared, "")
    words = "have a question that stops at one and the same number of characters"
    yield Group(words, _CUT, _cut_questions(frame["question"]), "question")
    head = pl.col("answer").str.strip_chars().str.head(_HELD)
    held = (head.str.len_chars() == _HELD) & pl.col("question").str.contains(head, literal=True)
    yield Group(
        "stand in their question already", 0.06, frame.select(held).to_series().to_numpy(), "both"
    )
    words = "hold their question word by word, behind their own text"
    yield Group(words, 0.03, _quoting(frame), "end")
    again = (pl.col("answer") == pl.col("replied")) & (pl.col("answer").str.len_chars() >= _LONG)
    repeated = frame.select(again.fill_null(False)).to_series().to_numpy()
    yield Group("repeat the answer before, whatever is asked", _AGAIN, repeated, "both")


def _quoting(frame: "pl.DataFrame") -> "np.ndarray":
    """Return which answers have the first words of their question in their end, and not in their
    beginning: a thread of mails, a form."""
    import polars as pl

    def plain(text: pl.Expr) -> pl.Expr:
        return text.str.to_lowercase().str.replace_all(r"[^\p{L}\p{N}]+", " ").str.strip_chars()

    # Few answers hold the first letters of their question at all.
    first = pl.col("question").str.strip_chars().str.head(_FIRST)
    near = frame.with_row_index("place").filter(
        pl.col("answer").str.tail(_END).str.contains(first, literal=True)
    )
    asked = plain(pl.col("question").str.head(2 * _QUOTED[1])).str.head(_QUOTED[1])
    end = plain(pl.col("answer").str.tail(_END))
    start = plain(pl.col("answer").str.head(_END // 4))
    # Of a question that is as short as a title, an answer may well say it.
    is_long = asked.str.len_chars() >= _QUOTED[0]
    inside = end.str.contains(asked, literal=True) & ~start.str.contains(asked, literal=True)
    return frame_mask(near.filter(is_long & inside)["place"], len(frame))


def _sharing(questions: "pl.Series") -> "np.ndarray":
    """Return which questions say the eight words that most different ones say."""
    flat = words_of(questions)
    first = ~questions.is_duplicated().to_numpy()
    return sharing(first, flat["place"].to_numpy(), flat["hash"].to_numpy())


def _shared_words(group: "np.ndarray") -> str:
    """Return what questions do that share words, and whether they begin with some row."""
    places = group.nonzero()[0]
    words = "have a first question that says the same eight words as the others of these"
    if len(places) and group[places[0] :].mean() >= _BLOCK and places[0]:
        return f"{words}, all from one row on"
    return words


def _cut_questions(questions: "pl.Series") -> "np.ndarray":
    """Return which questions have the one length that many more have than its neighbours, if most of
    these stop in a word or behind one."""
    import numpy as np

    lengths = questions.str.strip_chars().str.len_chars().to_numpy().astype(np.int64)
    different = questions.is_first_distinct().to_numpy()
    counts = np.bincount(lengths[different], minlength=LONGEST + 12)
    counts[:_LEAST_CUT] = counts[LONGEST - 10 :] = 0
    length = int(counts.argmax())
    near = np.r_[counts[length - 10 : length], counts[length + 1 : length + 11]]
    there = (lengths == length) & different
    stops = questions.filter(there).str.contains(r"\p{L}\s*$").to_numpy()
    is_cut = counts[length] > 5 * (near.mean() + 1) and 2 * stops.sum() >= len(stops) > 0
    return there if is_cut else there & False
