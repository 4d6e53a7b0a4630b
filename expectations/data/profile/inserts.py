"""What a tool puts between the words of answers, again and again: one and the same text in brackets, or a
word behind a mark that stands before no word ([object Object], {1}, </g>, #REF!, [UNK]).

No such text is looked for by itself: it is known by being there twice in many answers, whatever is asked.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from expectations.data.profile.alarms import LEAST_GROUP
from expectations.data.profile.shapes import Group, frame_mask

if TYPE_CHECKING:
    import polars as pl

_HEAD = 3_000  # characters of an answer
_ADDRESS = r"https?://\S+"
_BRACKETS = "|".join(
    rf"{first}[^{first}{last}\n]{{1,40}}{last}"
    for first, last in ((r"\[", r"\]"), (r"\{", r"\}"), ("<", ">"), ("⟦", "⟧"), ("«", "»"))
)
# What letters leave for who sends them ([Your Name]), numbers of notes, and breaks in cells of tables.
_USUAL = r"^\[\p{Lu}\p{Ll}|^\[[\d, ]*\]$|^<br ?/?>$"
# A hashtag is one word or several in small letters.
_MARKED = r"#[\p{Lu}/]{2,}\d?[!?]?|[%&@^~=|¤§][\p{Lu}_/]{2,}\d*[!?%&@^~=|¤§]?"
_ODD = f"{_BRACKETS}|{_MARKED}"
_TWICE, _OFTEN = 2, 0.012  # times in one answer; share of answers with it so often
_SHARE = 0.03


def inserts(frame: "pl.DataFrame") -> Iterator[Group]:
    """Yield the answers that hold twice what others hold twice: `frame` has `answer` and `prose` (that
    without its code)."""
    import polars as pl

    again = ~pl.col("answer").is_duplicated()
    text = pl.col("prose").str.head(_HEAD).str.replace_all(_ADDRESS, "")
    found = (
        frame.select("answer", text=text.str.extract_all(_ODD))
        .with_row_index("place")
        .filter(again & (pl.col("text").list.len() >= _TWICE))
        .select("place", "text")
        .explode("text")
        .filter(~pl.col("text").str.contains(_USUAL))
        .with_columns(pl.col("text").str.replace_all(r"\d+", "0"))
    )
    each = found.group_by("place", "text").len().filter(pl.col("len") >= _TWICE)
    counts = each["text"].value_counts(name="answers")
    often = counts.filter(pl.col("answers") >= max(LEAST_GROUP / 2, _OFTEN * len(frame)))
    most = often.sort("answers", "text", descending=[True, False])["text"].head(3).to_list()
    places = each.filter(pl.col("text").is_in(often["text"].implode()))["place"].unique()
    words = f"hold {', '.join(map(repr, most))} again and again, whatever is asked"
    yield Group(words, _SHARE, frame_mask(places, len(frame)), "answer")
