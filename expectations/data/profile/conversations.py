"""What conversations do that nobody leads: ask the same once more, or begin in another language than they
go on in. The question always tells these, and so it is no excuse for them."""

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from expectations.data.batches import spread
from expectations.data.profile.alarms import LEAST_GROUP
from expectations.data.profile.languages import language
from expectations.data.profile.shapes import Group, frame_mask

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

_AGAIN, _ALIKE = 0.03, 0.5  # share of rows; of the words of both answers
_GUESSES = 300  # openings whose language is guessed first
_GUESSED = (40, 160)  # characters of one, at least and at most
_OTHER = 0.03


def conversations(frame: "pl.DataFrame") -> Iterator[Group]:
    """Yield groups of rows: `frame` has `question`, `answer`, `before`, `replied` (what stands above the
    last pair, null where nothing does) and `opening` (the first question)."""
    words = "answer the question before once more, nearly as before"
    yield Group(words, _AGAIN, _asked_again(frame), "both")
    words = "are in a conversation that begins in another language"
    yield Group(words, _OTHER, _other_language(frame), "")


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
    part = spread(led, _GUESSES)
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
