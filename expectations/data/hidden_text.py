"""Characters that nobody sees, or that look like others: they carry instructions past a reader, or
are the leavings of a bad conversion.

What scripts and emoji need is none of it: joiners of emoji, of Persian and of the scripts of India,
direction marks, flags, keycaps, single soft hyphens and single icons.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

# Scripts in which nothing invisible belongs between two letters.
_LETTER = r"[\p{Latin}\p{Cyrillic}\p{Greek}]"
_NOTHING = r"[\x{200B}-\x{200D}\x{2060}-\x{2064}\x{FEFF}\x{180E}]"
PATTERN = "|".join(
    (
        # Tags that follow no flag and no tag: ASCII that nobody sees.
        r"(?:\A|[^\x{1F3F4}\x{E0020}-\x{E007F}])[\x{E0001}-\x{E007E}]",
        r"[\x{202D}\x{202E}]",  # overrides of the direction
        rf"(?:{_LETTER}{_NOTHING}+){{3}}{_LETTER}",
        # Copied formulas have two or three in a row.
        rf"{_LETTER}{_NOTHING}{{5,}}{_LETTER}",
        r"[\x{200B}-\x{200F}\x{2060}-\x{2064}\x{FEFF}\x{3164}\x{115F}\x{FFA0}]{8,}",
        r"(?:\p{L}\x{AD}){3}\p{L}",  # soft hyphens after single letters divide no word
        r"[\x{FE00}-\x{FE0F}\x{E0100}-\x{E01EF}]{3,}",  # variation selectors carry bytes
        r"(?:[\x{0300}-\x{036F}\x{0489}\x{1AB0}-\x{1AFF}\x{20D0}-\x{20FF}]{4,}\P{M}{1,3}){2}",
        r"\p{Co}{4,}(?:\P{L}{1,3}\p{Co}{2,}){2}",  # words of characters that no standard defines
    )
)
# A letter of one script inside a word of another, whose letters look like it.
_CYRILLIC = "аеорсухіјѕһԁԛԝАВЕКМНОРСТУХІЈЅԌԚԜ"
_GREEK = "οΑΒΕΖΗΙΚΜΝΟΡΤΥΧ"  # of the small ones only omicron: formulas have the others
_LATIN = "aceopxyABEKMHOPCTX"
_LIKE_LATIN = f"[{_CYRILLIC}{_GREEK}]"
HOMOGLYPH = "|".join(
    (
        rf"\p{{Latin}}{{2,}}{_LIKE_LATIN}{{1,3}}\p{{Latin}}",
        rf"\p{{Latin}}{_LIKE_LATIN}{{1,3}}\p{{Latin}}{{2,}}",
        rf"{_LIKE_LATIN}\p{{Latin}}{{1,3}}{_LIKE_LATIN}",
        rf"\b[{_CYRILLIC}ΑΒΕΖΗΙΚΜΝΟΡΤΥΧ]\p{{Latin}}{{3,}}",
        rf"\p{{Cyrillic}}{{2,}}[{_LATIN}]\p{{Cyrillic}}|\p{{Cyrillic}}[{_LATIN}]\p{{Cyrillic}}{{2,}}",
    )
)
_FEWEST = 2  # in a message: one is a slip of the keyboard


def has_hidden_text(text: "pl.Expr") -> "pl.Expr":
    return text.str.contains(PATTERN)


def has_homoglyphs(text: "pl.Expr") -> "pl.Expr":
    return text.str.count_matches(HOMOGLYPH) >= _FEWEST


def may_have_homoglyphs(text: "pl.Expr") -> "pl.Expr":
    """Return whether Latin letters stand right beside others, at a fraction of the cost."""
    return text.str.contains(r"\p{Latin}[\p{Cyrillic}\p{Greek}]|[\p{Cyrillic}\p{Greek}]\p{Latin}")
