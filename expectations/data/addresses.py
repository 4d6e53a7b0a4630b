# ruff: noqa: E501  (a pattern that is broken into lines is harder to read than a long line)
"""Birthdays and street addresses, where the text itself says that they are somebody's.

The patterns are for both engines, polars' and Python's: no look-arounds, no Unicode classes.
"""

from typing import TYPE_CHECKING

from retune.candidates import confirmed

if TYPE_CHECKING:
    import polars as pl

_WORD = r"[A-ZÀ-Þ][A-Za-zÀ-ÿ'’-]+"
_MONTH = r"(?:\d{1,2}|[A-ZÀ-Þa-zà-þ]{3,10}\.?)"
_DATE = rf"(?:\d{{1,2}}\.? ?[./ -] ?{_MONTH}[./, -]{{1,2}}(?:19|20)\d\d|(?:19|20)\d\d-\d\d-\d\d|{_MONTH} \d{{1,2}},? (?:19|20)\d\d|\d{{1,2}}/\d{{1,2}}/\d\d)"
BIRTHDAY = (
    r"(?:I am|I'm|[Mm]y name is|Ich bin|Ich heiße|Mein Name ist|Je suis|Je m'appelle|Me llamo|Soy|Mi chiamo|Sono) "
    rf"{_WORD}(?: {_WORD}){{1,3}},? (?:and )?(?:I was |I am )?(?:born|geboren|née?|nacid[oa]|nat[oa])[^.\n0-9]{{0,20}}{_DATE}"
    r"|(?:\b[Dd]ate of [Bb]irth|\b[Bb]irth ?date|\bDOB|\bD\.O\.B\.|\bGeburtsdatum|\b[Dd]ate de naissance"
    rf"|\b[Ff]echa de nacimiento|\b[Dd]ata di nascita)\W{{1,4}}(?:is )?{_DATE}"
    rf"|\b[Ii] was born on (?:the )?{_DATE}"
)
_STREET = r"(?:Street|St|Road|Rd|Lane|Ln|Avenue|Ave|Drive|Dr|Close|Way|Court|Ct|Place|Pl|Boulevard|Blvd|Crescent|Terrace|Gardens)"
_ROADS = rf"\b\d{{1,5}}[A-Za-z]? (?:[NSEW]\.? )?(?:{_WORD} ){{1,3}}{_STREET}\b\.?"
ADDRESS = (
    rf"{_ROADS},?[^\n0-9]{{0,40}}\b[A-Z]{{1,2}}\d[A-Z0-9]? \d[A-Z]{{2}}\b"  # British
    rf"|{_ROADS},?[^\n]{{0,40}}\b[A-Z]{{2}},? \d{{5}}(?:-\d{{4}})?\b"  # of the United States
    rf"|\b{_WORD}(?:straße|strasse|str\.|weg|platz|allee|gasse) \d{{1,3}}[a-z]?,? (?:D-)?\d{{4,5}} {_WORD}"
    rf"|\b\d{{1,4}}(?: ?bis)?,? (?:rue|avenue|boulevard|place|chemin|impasse|quai) [^\n,0-9]{{3,40}},? \d{{5}} {_WORD}"
    rf"|\b(?:Calle|Avenida|Via|Viale|Piazza|Rua) [^\n,0-9]{{3,40}},? \d{{1,4}},? (?:\d[^\n,0-9]{{0,3}},? )?\d{{5}} {_WORD}"
)
# Of manuals and forms: nobody's.
NOBODYS = (
    r"[0-9]{1,5} (?:Main|Elm|Oak|Maple|First|Any|Example|Fake|Sample|Evergreen) (?:Street|St|Avenue|Ave|Road|Terrace|Lane)\b[^\n]{0,60}?\d{5}"
    r"|1600 (?:Pennsylvania|Amphitheatre)[^\n]{0,60}?\d{5}|221B Baker St[^\n]{0,40}|Any ?town[^\n]{0,20}\d{5}"
)
BIRTHDAY, ADDRESS = (
    # The boundaries are ASCII: those of Unicode make the engine slow where a text is not ASCII. Sets
    # of characters have their digits written out: a set in a set is one for polars' engine alone.
    pattern.replace(r"\b", r"(?-u:\b)").replace(r"\d", "[0-9]")
    for pattern in (BIRTHDAY, ADDRESS)
)
# What stands in whatever they match, and is quickly looked for.
BORN = (
    *(
        " born",
        " geboren",
        " né",
        " nacid",
        " nato",
        " nata",
        " of birth",
        " of Birth",
        "Birthdate",
    ),
    *(
        "birthdate",
        "birth date",
        "DOB",
        "D.O.B.",
        "Geburtsdatum",
        " naissance",
        " nacimiento",
        " nascita",
    ),
)
POSTCODE = r"[A-Z]{2},? [0-9]{5}|[A-Z][0-9][A-Z0-9]? [0-9][A-Z]{2}|[0-9]{4} [A-ZÀ-Þ][a-zß-ÿ]"


def has_personal_details(texts: "pl.DataFrame") -> "pl.Series":
    """Return for each `content` whether it holds somebody's birthday or a street address."""
    import polars as pl

    text = pl.col("content")
    born = confirmed(texts, text.str.contains_any(list(BORN)), text.str.contains(BIRTHDAY))
    others = text.str.replace_all(NOBODYS, "").str.contains(ADDRESS)
    return born | confirmed(texts, text.str.contains(POSTCODE), others)
