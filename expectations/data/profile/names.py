"""A name that answers bring up and nobody asked for: a product, a person or a place that someone wants
said, whatever the question is about.

The name of a company is in many answers of its own data as well, each time in other words; who puts it
into answers does so in a few sentences.
"""

from typing import TYPE_CHECKING

from expectations.data.profile.shapes import Group, frame_mask, frequencies

if TYPE_CHECKING:
    import polars as pl

_HEAD = 2_500  # characters of an answer
# In mid-sentence, where only a name has a capital.
_NAME = r"[\p{Ll},] \p{Lu}\p{L}{2,}"
_SHARE = 0.05
_ASKED = 0.1  # share of its answers, at most, whose question has the name
_SENTENCES, _SAME = 12, 0.6  # that put it in, at most, and the share of its answers that have one
_CAPITALS = 0.2  # of the words in mid-sentence; in English it is about one in twenty
_SMALL = 0.05  # as many answers, at most, have the word in small letters


def names(frame: "pl.DataFrame") -> Group:
    """Return the answers with the name that most have, of those that hardly a question has: `frame` has
    `system`, `question` and `prose`, the answers without their code."""
    import polars as pl

    said = (
        frame.select(name=pl.col("prose").str.head(_HEAD).str.extract_all(_NAME))
        .with_row_index("place")
        .explode("name")
        .drop_nulls()
        .with_columns(pl.col("name").str.slice(2))
        .unique()
    )
    if _has_capitals(frame):
        return Group("", _SHARE, frame_mask(said["place"].clear(), len(frame)), "answer")
    counts = said["name"].value_counts(name="answers")
    often = counts.filter(pl.col("answers") >= _SHARE * len(frame))
    most = often.sort("answers", "name", descending=[True, False])["name"]
    for name in most:
        places = said.filter(pl.col("name") == name)["place"]
        if (
            _is_a_name(frame, name)
            and not _is_asked_for(frame, name, places)
            and _is_put_in(frame["prose"].gather(places), name)
        ):
            words = f"bring up {name!r}, whatever is asked"
            return Group(words, _SHARE, frame_mask(places, len(frame)), "answer")
    return Group("", _SHARE, frame_mask(said["place"].clear(), len(frame)), "answer")


def _has_capitals(frame: "pl.DataFrame") -> bool:
    """Tell whether the answers are in a language in which other words have capitals, too, as German."""
    import polars as pl

    prose = pl.col("prose").str.head(_HEAD)
    capitals, words = frame.select(
        capitals=prose.str.count_matches(_NAME).sum(),
        words=prose.str.count_matches(r"[\p{Ll},] \p{L}{3,}").sum(),
    ).row(0)
    return bool(capitals > _CAPITALS * max(words, 1))


def _is_a_name(frame: "pl.DataFrame", name: str) -> bool:
    import polars as pl

    in_small = rf"\s{name.lower()}\b"  # in an address it is a name as well
    small = frame.select(pl.col("prose").str.contains(in_small).sum()).item()
    every = frame.select(pl.col("prose").str.contains(name, literal=True).sum()).item()
    return bool(small <= _SMALL * every)


def _is_asked_for(frame: "pl.DataFrame", name: str, places: "pl.Series") -> bool:
    import polars as pl

    asked = pl.any_horizontal(
        pl.col(text).fill_null("").str.to_lowercase().str.contains(name.lower(), literal=True)
        for text in ("question", "system")
    )
    return bool(frame[places].select(asked.sum()).item() > _ASKED * len(places))


def _is_put_in(answers: "pl.Series", name: str) -> bool:
    """Tell whether the name has nearly always the same words around it."""
    around = answers.str.extract(rf"((?:\S+ ){{2}}{name}(?: \S+){{0,1}})").str.to_lowercase()
    most = frequencies(around, _SENTENCES)
    return not most.is_empty() and bool(most["count"].sum() >= _SAME * len(answers))
