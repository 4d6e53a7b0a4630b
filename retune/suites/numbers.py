"""The last number of a text, as people write them.

Every pattern here is one run of characters without a choice inside, so that it takes linear time.
"""

import math
import re
import unicodedata
from collections.abc import Iterator

MINUS = str.maketrans({"−": "-", "﹣": "-", "－": "-", "٫": ".", "٬": ","})
SPACES = "\u00a0\u202f\u2009"  # that stand between thousands, and nowhere by chance
LONGEST = 400  # characters of a number; what is longer is none
# A sign counts where nothing stands before it that it could join: no "3-5", no "COVID-19".
_RUN = rf"\d[\d.,'’_{SPACES}]*"
_TOKEN = re.compile(rf"(?<![\w.])[-+]?\.?{_RUN}(?:[eE][-+]?\d+)?|{_RUN}")


def last_number(text: str, decimal_comma: bool = False) -> float | None:
    """Return the last number in digits, None if there is none.

    Digits are those of any script. Between thousands may stand a comma, an apostrophe, an underscore
    or a narrow space; with `decimal_comma` a point instead of the comma, and a plain space as well. What
    only looks like a number is none: a version (1.2.3), a date (12.05.2024), a digit that is part of a
    word (H2O). Of a list without spaces (1,2,3) the last one counts.
    """
    for token in reversed(list(_tokens(_in_ascii(text), decimal_comma))):
        if (value := _value(token, decimal_comma)) is not None:
            return value
    return None


def _in_ascii(text: str) -> str:
    """Return a text with the digits of other scripts, and their signs, as ASCII has them."""
    if text.isascii():
        return text
    digits = (
        str(unicodedata.decimal(one)) if one.isdecimal() and not one.isascii() else one
        for one in text.translate(MINUS)
    )
    return "".join(digits)


def _tokens(text: str, decimal_comma: bool) -> Iterator[str]:
    """Yield each run that begins as a number does and is part of no word."""
    if decimal_comma:
        # In groups of three alone: "im Jahr 2024 100" are two numbers.
        text = re.sub(r"(?<![\d.,])(\d{1,3})((?: \d{3})+)(?!\d)", _joined, text)
    for match in _TOKEN.finditer(text):
        before = text[match.start() - 1] if match.start() else ""
        if before.isalpha() or before in ("_", ".") or match.end() - match.start() > LONGEST:
            continue
        yield match[0].rstrip(f".,'’_{SPACES}")


def _joined(match: "re.Match[str]") -> str:
    return match[0].replace(" ", "")


def _value(token: str, decimal_comma: bool) -> float | None:
    point, comma = (",", ".") if decimal_comma else (".", ",")
    mantissa, _, exponent = token.lower().partition("e")
    whole, dot, fraction = mantissa.partition(point)
    whole = whole if whole.strip("+-") or not dot else f"{whole}0"  # .5
    if dot and not fraction.isdigit():
        return None
    groups = re.split(rf"[{comma}'’_{SPACES}]", whole.lstrip("+-"))
    if not _are_thousands(groups):
        if decimal_comma or dot or comma not in whole:
            return None
        whole = groups[-1]  # the last of a list
        groups = [whole]
    sign = "-" if whole.startswith("-") else ""
    value = float(f"{sign}{''.join(groups)}.{fraction or 0}e{exponent or 0}")
    return value if math.isfinite(value) else None


def _are_thousands(groups: list[str]) -> bool:
    """Tell whether the digits between separators are thousands (1,234,567), also as India has them
    (12,34,567)."""
    first, *rest = groups
    if not rest:
        return first.isdigit()
    *inner, last = rest
    sizes = {len(group) for group in inner}
    return (
        all(group.isdigit() for group in groups)
        and len(last) == 3
        and ((len(first) <= 3 and sizes <= {3}) or (len(first) <= 2 and sizes <= {2}))
    )
