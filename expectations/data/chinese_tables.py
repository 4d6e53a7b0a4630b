"""UTF-8 that was read as GBK ("浣犲ソ" for "你好"), found by reading it back.

A line whose characters, written in GBK again, are strict UTF-8 of other characters is no Chinese: the
bytes of common characters in GBK begin no character in UTF-8. Where a byte was lost on the way, nothing
can be read back.
"""

import re
import unicodedata
from functools import cache

_TABLE = "gb18030"  # all of GBK, and what newer programs read by it
_LEAST = 2  # characters of three bytes or more; one pair of bytes may be UTF-8 by chance
# UTF-8's ä, ö, ü, é … as one character of GBK between letters of a word.
LATIN = "[a-z][茅眉枚盲脽猫莽贸铆谩锚][a-z]"
_LATIN = re.compile(LATIN)


@cache
def suspects() -> str:
    """Return a pattern of the characters that most characters of three bytes begin with."""
    begun = bytes([0xE2]) + bytes(range(0xE3, 0xEE)) + bytes([0xEF])
    pairs = {bytes([first, second]) for first in begun for second in range(0x80, 0xC0)}
    signs = sorted(pair.decode(_TABLE, errors="ignore") for pair in pairs)
    return f"[{''.join(signs)}]|{LATIN}"


def reads_back(text: str) -> bool:
    """Tell whether a line of a text is UTF-8 that was read as GBK, and can be read back."""
    return any(read_back(line) != line for line in text.split("\n"))


def read_back(line: str) -> str:
    """Return the line as it was before it was read as GBK; itself, if it was not or if that is lost."""
    if line.isascii():
        return line
    try:
        meant = line.encode(_TABLE).decode()
    except UnicodeError:
        return line
    others = [sign for sign in meant if not sign.isascii()]
    if any(unicodedata.category(sign) in ("Cn", "Co", "Cc") for sign in others):
        return line
    wide = sum(sign > "\u07ff" for sign in others)
    if wide >= _LEAST and wide >= len(others) - wide:
        return meant
    is_latin = all("\u00c0" <= sign <= "\u017f" for sign in others)
    return meant if is_latin and _LATIN.search(line) else line
