"""Repairs of texts: a column of messages' contents in, the same column repaired.

A column pattern finds the texts that may need it; Python reads those alone, in linear time.
"""

import html
import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING

from expectations.data.chinese_tables import read_back, suspects

if TYPE_CHECKING:
    import polars as pl

# Before such words entities are spoken of, or are what was asked for.
_ABOUT_MARKUP = r"(?i)\bhtml|\bxml|entit|escap|<(?:pre|code)\b"
# What `\n`, `\_` mean there is not a matter of Markdown: JSON, tool calls, formulas, Windows' paths.
_NOT_PROSE = (
    r"^\s*[\[{]|<tool_call>|~~~|<(?:pre|code)\b|\\[\[(]|\$[^$\n]*\\[^$\n]*\$|\b[A-Za-z]:\\"
    r"|\\(?:nabla|neq?|nu|newline|newcommand|text|times|tau|theta|frac|begin|end|left|right)\b"
)
_COMMAND = (
    r"\\[a-zA-Z]{3,}"  # of TeX; also how a line break and a word look before they are unescaped
)
_ENTITY = r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,30});"
_MARKDOWN_ESCAPE = r"\\[_*#]"
_ESCAPED_BREAKS = r"\\n\\n|[.:!?,;)]\\n(?s:.*)[.:!?,;)]\\n"
_QUOTED_BREAK = r"""\\n["']|["']\\n|`"""

# Letters of scripts that are written with spaces and without joiners; in others some of these separate
# words (Thai, Khmer) or shape letters (Arabic, Indic).
_LETTER = r"[\p{Latin}\p{Greek}\p{Cyrillic}\p{Armenian}\p{Georgian}]"
_UNSEEN = r"[\x{AD}\x{200B}-\x{200D}\x{2060}\x{FEFF}]+"
_WITHIN_A_WORD = rf"({_LETTER}){_UNSEEN}({_LETTER})"
_SOFT_HYPHEN = r"(\p{L})[\x{AD}\x{2060}\x{FEFF}]+(\p{L})"
_BREAKS = r"\r\n|[\r\x{85}\x{2028}]"

_NAMES = {
    "user": r"human|user|prompter|### ?(?:instruction|question|input)",
    "assistant": r"assistant|gpt|chatgpt|bot|ai|### ?(?:response|answer|output)",
    "system": r"system",
}
# As headings, bold or plain: "### Assistant:", "**User:**", "Human:".
_PREFIX = r"^\s*(?i:#{{0,4}} ?\*{{0,2}}(?:{names})\*{{0,2}} ?[:：]\*{{0,2}}\s*)"

_MULTIBYTE = ("cp1252", "latin-1", "cp1250", "cp1251", "mac_roman", "cp437")


def fix_mojibake(texts: "pl.Series", _roles: "pl.Series") -> "pl.Series":
    """Undo a wrong decoding, line by line, where ftfy finds the line bad and its repair good, or where
    what was read as GBK is UTF-8 without a byte missing."""
    suspect = texts.str.contains(_misread()) | texts.str.contains(suspects())
    return _changed(texts, suspect, _decoded)


def unescape(texts: "pl.Series", roles: "pl.Series") -> "pl.Series":
    """Unescape Markdown's `\\_`, `\\*` and `\\#`, HTML entities, and `\\n` in a text without a line
    break; not in code, nor where a text speaks of such, nor what a tool said."""
    prose = ~texts.str.contains(_NOT_PROSE) & (roles != "tool").fill_null(True)
    broken = texts.str.contains(_ESCAPED_BREAKS) & ~texts.str.contains("\n", literal=True)
    broken &= ~texts.str.contains(_QUOTED_BREAK)
    texts = _changed(texts, prose & broken, _with_line_breaks)
    prose &= ~texts.str.contains(_COMMAND)
    entities = texts.str.contains(_ENTITY) & ~texts.str.contains(_ABOUT_MARKUP)
    texts = _changed(texts, prose & entities, lambda text: _outside_code(text, _without_entities))
    escaped = texts.str.contains(_MARKDOWN_ESCAPE)
    return _changed(texts, prose & escaped, lambda text: _outside_code(text, _without_escapes))


def normalise_unicode(texts: "pl.Series", _roles: "pl.Series") -> "pl.Series":
    """Compose letters (NFC), drop soft hyphens and zero width characters within words and a byte order
    mark in front, and break lines by line feeds alone.

    Joiners stay where they shape what is seen: in emoji, in Arabic and Indic words; so do the zero
    width spaces that separate words in Thai or Khmer.
    """
    texts = texts.str.normalize("NFC").str.strip_prefix("\ufeff")
    for pattern in (_WITHIN_A_WORD, _SOFT_HYPHEN):
        for _ in range(2):  # a letter that ends one match cannot begin the next
            texts = texts.str.replace_all(pattern, "${1}${2}")
    return texts.str.replace_all(_BREAKS, "\n").str.replace_all("\u2029", "\n\n", literal=True)


def strip_role_prefix(texts: "pl.Series", roles: "pl.Series") -> "pl.Series":
    """Drop the name of a message's own role where the message begins with it and goes on."""
    import polars as pl

    stripped, role = pl.col("text"), pl.col("role")
    for name, names in _NAMES.items():
        shorter = pl.col("text").str.replace(_PREFIX.format(names=names), "")
        stripped = pl.when((role == name) & (shorter != "")).then(shorter).otherwise(stripped)
    return pl.select(text=texts, role=roles).select(stripped).to_series()


def _changed(texts: "pl.Series", suspect: "pl.Series", change: Callable[[str], str]) -> "pl.Series":
    """Return the texts, those that are `suspect` changed."""
    import polars as pl

    places = suspect.fill_null(False).arg_true()
    if places.is_empty():
        return texts
    repaired = pl.Series(map(change, texts.gather(places)), dtype=pl.String)
    return texts.clone().scatter(places, repaired)


@cache
def _misread() -> str:
    """Return the pattern of a character of several bytes in UTF-8 that was read as one for each."""

    def characters(first: int, last: int, encoding: str) -> str:
        return bytes(range(first, last + 1)).decode(encoding, errors="ignore")

    pairs = [
        f"[{characters(0xC2, 0xF4, encoding)}][{characters(0x80, 0xBF, encoding)}]"
        for encoding in _MULTIBYTE
    ]
    return "|".join(pairs)


def _decoded(text: str) -> str:
    from ftfy import fix_encoding
    from ftfy.badness import is_bad

    def better(line: str) -> str:
        if line.isascii():
            return line
        if (meant := read_back(line)) != line:
            return meant
        if not is_bad(line):
            return line
        fixed = fix_encoding(line)
        return line if is_bad(fixed) else fixed

    return "\n".join(map(better, text.split("\n")))


def _with_line_breaks(text: str) -> str:
    return text.replace("\\r\\n", "\n").replace("\\n", "\n").replace("\\t", "\t")


def _without_entities(text: str) -> str:
    # A no-break space is the one that exports write between any two words.
    return re.sub(_ENTITY, lambda match: html.unescape(match[0]), text).replace("\xa0", " ")


def _without_escapes(text: str) -> str:
    return re.sub(r"\\([_*#])", r"\1", text)


def _outside_code(text: str, change: Callable[[str], str]) -> str:
    """Change what of a text in Markdown is not code: fenced, indented, or between backticks."""
    return "```".join(
        [
            part if number % 2 else _prose(part, change)
            for number, part in enumerate(text.split("```"))
        ]
    )


def _prose(part: str, change: Callable[[str], str]) -> str:
    return "\n".join(
        line if line.startswith(("    ", "\t")) else "`".join(_spans(line.split("`"), change))
        for line in part.split("\n")
    )


def _spans(parts: Sequence[str], change: Callable[[str], str]) -> list[str]:
    last = len(parts) - 1  # after a backtick that none closes prose goes on
    return [
        part if number % 2 and number != last else change(part) for number, part in enumerate(parts)
    ]
