"""Words that no other answer has and that come from a known one: letters lost, added or changed, or the
space between two words gone. Scans, fonts and careless joins do so to every tenth word; people do not.

The known words are those of the set itself, in whatever language.
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from expectations.data.profile.shapes import HEAD, Group, frame_mask

if TYPE_CHECKING:
    import polars as pl

_LETTERS = r"\p{L}+"
# Scripts that write no spaces between words.
_UNSPACED = r"[\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}\p{Han}\p{Hiragana}\p{Katakana}]"
_KNOWN = 3  # answers that say a word
_JOINING = 150  # words that most answers say: of two that run together one is of these
_SHORTEST = 5  # letters of a word that is looked at
_ENDING = 2  # letters at the end that change with the form of a word
# Words of an answer, their share of its different words, and the share of answers with as many.
_JOINED, _MISSPELT, _SHARE = (3, 0.03), (4, 0.05), 0.03


def spelling(frame: "pl.DataFrame") -> Iterator[Group]:
    """Yield the answers with many broken words: `frame` has `prose`, the answers without their code."""
    import polars as pl

    said = (
        frame.select(word=pl.col("prose").str.head(HEAD).str.extract_all(_LETTERS))
        .with_row_index("place")
        .explode("word")
        .drop_nulls()
        .unique()
    )
    # A name is nobody's other word; the first word of a sentence is not worth losing it for.
    said = said.filter(
        (pl.col("word").str.to_lowercase() == pl.col("word"))
        & ~pl.col("word").str.contains(_UNSPACED)
    )
    counts = said["word"].value_counts(name="answers")
    known = counts.filter(pl.col("answers") >= _KNOWN)
    new = counts.filter((pl.col("answers") == 1) & (pl.col("word").str.len_chars() >= _SHORTEST))[
        "word"
    ]
    for words, broken, limits in (
        ("run a common word and another one together", _joined(new, known), _JOINED),
        ("have letters lost or changed in their words", _misspelt(new, known["word"]), _MISSPELT),
    ):
        places = _with_many(said, broken, *limits)
        yield Group(words, _SHARE, frame_mask(places, len(frame)), "answer")


def _with_many(said: "pl.DataFrame", broken: set[str], least: int, share: float) -> "pl.Series":
    """Return the places of the answers of whose words at least so many and such a share are `broken`."""
    import polars as pl

    is_broken = pl.Series(sorted(broken), dtype=pl.String).implode()
    each = said.with_columns(broken=pl.col("word").is_in(is_broken)).group_by("place")
    counts = each.agg(pl.col("broken").sum(), share=pl.col("broken").mean())
    return counts.filter((pl.col("broken") >= least) & (pl.col("share") >= share))["place"]


def _joined(new: "pl.Series", known: "pl.DataFrame") -> set[str]:
    """Return which words are two known ones, of which one is among the most frequent of all."""
    import polars as pl

    words = known.filter(pl.col("word").str.len_chars() >= 2)
    every = set(words["word"])
    joining = set(words.sort("answers", "word", descending=[True, False])["word"].head(_JOINING))

    def is_joined(word: str) -> bool:
        halves = ((word[:at], word[at:]) for at in range(2, len(word) - 1))
        return any(
            (one in joining and other in every) or (other in joining and one in every)
            for one, other in halves
        )

    return set(filter(is_joined, new))


def _misspelt(new: "pl.Series", known: "pl.Series") -> set[str]:
    """Return which words are a known one but for one letter, or without two or three that stand
    together, not at its end."""
    every = {word for word in known if len(word) >= _SHORTEST}
    less = {short for word in every for short in _without(word, 1)}
    shorter = {short for word in every for by in (2, 3) for short in _without(word, by)}

    def is_misspelt(word: str) -> bool:
        own = set(_without(word, 1))
        lost, added, changed = word in less or word in shorter, own & every, own & less
        return lost or bool(added) or bool(changed)

    return set(filter(is_misspelt, new))


def _without(word: str, letters: int) -> Iterable[str]:
    """Yield a word without some neighbouring letters, of four at least, its last ones kept."""
    for at in range(len(word) - letters - _ENDING + 1):
        short = word[:at] + word[at + letters :]
        if len(short) >= _SHORTEST - 1:
            yield short
