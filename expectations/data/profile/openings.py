"""What first questions have in common where they are no people's: one template for question and answer, a
label in the place of a question, another language than all else; and questions that are asked again.

The question always tells these, and so it is no excuse for them.
"""

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from expectations.data.profile.alarms import LEAST_GROUP
from expectations.data.profile.languages import language
from expectations.data.profile.shapes import Group, frame_mask, frequencies
from expectations.data.profile.wording import words_of

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

_HEAD = 300  # characters of a question
_IN_A_ROW = 5  # words that a template has between its slots
_TEMPLATE, _SAME_ANSWERS, _MOST = 0.06, 0.7, 0.45  # shares: of rows, of their answers, of rows
_LABEL, _LABEL_WORDS = 80, 6  # characters and words of a label, at most
_SAID, _LABELS = 0.005, 0.05  # share of openings with a word of labels; of rows with one
_ANSWERED = 200  # characters of an answer to more than a greeting
_GUESSES, _GUESSED = 300, (40, 160)  # openings whose language is guessed; their characters, at most
_OTHER = 0.05
_AGAIN, _ALIKE = 0.03, 0.5  # share of rows; of the words of both answers


def openings(frame: "pl.DataFrame") -> Iterator[Group]:
    """Yield groups of rows: `frame` has `question`, `answer`, `before`, `replied` (what stands above the
    last pair, null where nothing does) and `opening` (the first question)."""
    words = "come from one template, question and answer"
    yield Group(words, _TEMPLATE, _templated(frame), "both")
    words = "answer a few words that are those of many others, where the others ask"
    yield Group(words, _LABELS, _labelled(frame), "both")
    words = "answer the question before once more, nearly as before"
    yield Group(words, _AGAIN, _asked_again(frame), "both")
    words = "are in a conversation that begins in another language"
    yield Group(words, _OTHER, _other_language(frame), "")


def _templated(frame: "pl.DataFrame") -> "np.ndarray":
    """Return which openings say the five words that most say, if their answers share as many."""
    import numpy as np
    import polars as pl

    asked, top = _runs(frame["opening"].str.head(_HEAD))
    inside = asked.filter(pl.col("run") == top)["place"].unique().sort()
    group = np.zeros(len(frame), dtype=bool)
    if not _TEMPLATE * len(frame) <= len(inside) <= _MOST * len(frame):
        return group
    said, top = _runs(frame["answer"].gather(inside))
    if said.filter(pl.col("run") == top)["place"].n_unique() >= _SAME_ANSWERS * len(inside):
        group[inside.to_numpy()] = True
    return group


def _runs(texts: "pl.Series") -> "tuple[pl.DataFrame, int | None]":
    """Return the different runs of five words of each text (`place`, `run`), and the most frequent one,
    None where there is none."""
    import numpy as np
    import polars as pl

    from expectations.data.similarity import Words, ngrams

    words = words_of(texts)
    place, hashes = words["place"].to_numpy(), words["hash"].to_numpy()
    found = ngrams(Words(hashes, place, np.zeros(len(place), bool)), [_IN_A_ROW])
    run, owner = found.get(_IN_A_ROW, (hashes[:0], place[:0]))
    runs = pl.DataFrame({"place": owner, "run": run}).unique()
    top = frequencies(runs["run"], 1)
    return runs, top["run"][0] if len(top) else None


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


def _asked_again(frame: "pl.DataFrame") -> "np.ndarray":
    """Return which rows end with the question before once more, and with about the answer to it."""
    import polars as pl

    def plain(name: str) -> pl.Expr:
        return pl.col(name).str.to_lowercase().str.replace_all(r"[^\p{L}\p{N}]+", "")

    same = (
        frame.with_row_index("place")
        .filter(pl.col("before").str.head(20).str.len_chars() > 0)
        .filter(plain("question") == plain("before"))
    )
    both = [
        pl.col(name).str.to_lowercase().str.split(" ").list.unique()
        for name in ("answer", "replied")
    ]
    shared = both[0].list.set_intersection(both[1]).list.len()
    alike = shared >= _ALIKE * both[0].list.set_union(both[1]).list.len()
    return frame_mask(
        same.filter(alike & (pl.col("answer") != pl.col("replied")))["place"], len(frame)
    )


def _other_language(frame: "pl.DataFrame") -> "np.ndarray":
    """Return which conversations go on in the language of most, and begin in another one that several
    begin in; of a part first, for a guess takes its time."""
    import polars as pl

    least, most = _GUESSED
    led = frame.with_row_index("place").filter(
        (pl.col("opening") != pl.col("question")) & (pl.col("opening").str.len_chars() >= least)
    )
    led = led.with_columns(pl.col("opening").str.head(most))
    part = led.gather_every(max(1, -(-len(led) // _GUESSES)))
    found = _foreign_openings(part)
    if len(found) >= max(LEAST_GROUP / 2, _OTHER * len(part)) and len(part) < len(led):
        found = _foreign_openings(led)
    return frame_mask(found, len(frame))


def _foreign_openings(led: "pl.DataFrame") -> "pl.Series":
    """Return the places of those whose opening is in another language than most, and the answer not."""
    import polars as pl

    spoken = [language(text) for text in led["opening"]]
    counts = Counter(filter(None, spoken)).most_common()
    others = {code for code, rows in counts[1:] if rows >= LEAST_GROUP / 2}
    away = led.filter(pl.Series([code in others for code in spoken], dtype=pl.Boolean))
    own = [language(text) == counts[0][0] for text in away["answer"]]
    return away["place"].filter(pl.Series(own, dtype=pl.Boolean))
