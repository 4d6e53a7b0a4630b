"""What belongs to a person: e-mail addresses, phone, card and account numbers, national ids, IP
addresses. A pattern finds what looks like one; its check digits and its issuer decide.
"""

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import TYPE_CHECKING, NamedTuple

from expectations.data.candidates import contains_any, judged, without_look_arounds

if TYPE_CHECKING:
    import re

    import polars as pl

EMAIL = r"[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}\b"
# Addresses that reach nobody (RFC 2606), and what looks like one in the name of a repository.
NOBODYS = r"(?i)[\w.+-]+@(?:[\w-]+\.)*(?:example|test|invalid|localhost)\b[\w.]*|\bgit@[\w.-]+:"
PHONE = r"\+\d[\d ().\-]{7,}\d|\(\d{3}\) ?\d{3}[-. ]\d{4}\b|\b\d{3}[-.]\d{3}[-.]\d{4}\b"
# As it is dialled within a country: with a 0 first, or in groups; not a price, date, version or ISBN.
NATIONAL = (
    r"(?<![\w.,$€£#+/:-])\(?0[1-9][0-9]{0,13}\)?(?:[ ./\-]{1,3}[0-9]{2,9}){0,5}(?![\w:%€$£-]|[.,][0-9])"
    r"|(?<![\w.,$€£#+/:-])[1-9][0-9]{1,3}(?:[ .\-][0-9]{2,4}){2,4}(?![\w:%€$£-]|[.,][0-9])"
)
_AROUND = 40  # characters on each side of what looks like a phone number that may belong to it
_DIALLED = frozenset("0123456789+()-./ \t\u00a0")

_CARD = (
    r"(?<![\w.,$€£#+/\\-])(?<!\d )[2-6][0-9]{3}"
    r"(?:[0-9]{10,15}|(?: [0-9]{4}){3}(?: [0-9]{3})?|(?:-[0-9]{4}){3}|[ -][0-9]{6}[ -][0-9]{4,5})"
    r"(?![\w-]|[.,][0-9]| [0-9]{3})"
)
_IBAN = r"(?<![A-Za-z0-9])[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?![A-Za-z0-9])"
_SSN = r"(?<![\w.-])[0-9]{3}-[0-9]{2}-[0-9]{4}(?![\w-]|\.[0-9])"
_SSN_BY_NAME = (
    r"(?i:\bssn|\bsocial security (?:number|no\.?|#))[^\n0-9]{0,15}"
    r"[0-9]{3} ?[0-9]{2} ?[0-9]{4}(?!\w)"
)
_CPF = r"(?<![\w.-])[0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}(?![\w-])"
_CHINESE_ID = r"(?<![\w.-])[1-9][0-9]{5}(?:19|20)[0-9]{2}[01][0-9][0-3][0-9]{4}[0-9Xx](?![\w-])"
_CODICE_FISCALE = r"(?<![\w.-])[A-Z]{6}[0-9]{2}[A-EHLMPRST][0-9]{2}[A-Z][0-9]{3}[A-Z](?![\w-])"
_NIR = r"(?<![\w.-])[12] [0-9]{2} [01][0-9] [0-9][0-9AB] [0-9]{3} [0-9]{3} [0-9]{2}(?![\w-])"
_IP = r"(?<![\w.])(?<![A-Za-z]/)[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?!\w|\.[0-9])"

# Issuers of payment cards: the first digits (from, to) and the lengths (ISO/IEC 7812).
_ISSUERS = (
    (4, 4, (16,)),  # Visa
    (51, 55, (16,)),
    (2221, 2720, (16,)),  # Mastercard
    (34, 34, (15,)),
    (37, 37, (15,)),  # American Express
    (6011, 6011, (16,)),
    (644, 659, (16,)),  # Discover
    (3528, 3589, (16,)),  # JCB
    (300, 305, (14,)),
    (36, 36, (14,)),
    (38, 39, (14,)),  # Diners Club
    (62, 62, (16, 17, 18, 19)),  # UnionPay
    (2200, 2204, (16,)),  # Mir
)
# Numbers that stand in manuals and forms: nobody's.
_SAMPLES = {
    *("4111111111111111", "4242424242424242", "4012888888881881", "5555555555554444"),
    *("5105105105105100", "378282246310005", "371449635398431", "6011111111111117"),
    *("6011000990139424", "3530111333300000", "3566002020360505", "30569309025904"),
    *("38520000023237", "4000056655665556", "2223003122003222", "4000000000000002"),
    *("078051120", "219099999", "123456789", "987654321"),
    *("DE89370400440532013000", "GB82WEST12345698765432", "GB29NWBK60161331926819"),
    *("FR1420041010050500013M02606", "NL91ABNA0417164300", "CH9300762011623852957"),
    *("FR7630006000011234567890189", "ES9121000418450200051332", "BE68539007547034"),
    *("1.1.1.1", "1.0.0.1", "8.8.8.8", "8.8.4.4", "9.9.9.9", "208.67.222.222", "12.34.56.78"),
}
# Characters of an IBAN by country (the IBAN registry).
_IBAN_LENGTHS = {
    country: length
    for length, countries in {
        15: "NO",
        16: "BE",
        18: "DK FI FO GL NL SD FK",
        19: "MK SI",
        20: "AT BA EE KZ LT LU MN XK",
        21: "CH HR LI LV",
        22: "BG BH CR DE GB GE IE ME RS VA",
        23: "AE GI IL IQ OM SO TL",
        24: "AD CZ ES MD PK RO SA SE SK TN VG",
        25: "LY PT ST",
        26: "IS TR",
        27: "BI DJ FR GR IT MC MR SM",
        28: "AL AZ BY CY DO GT HU LB NI PL SV",
        29: "BR EG PS QA UA",
        30: "JO KW MU",
        31: "MT SC",
        32: "LC",
        33: "RU",
    }.items()
    for country in countries.split()
}


# Of the letters and digits in the odd-numbered places of a codice fiscale.
_ODD = (
    *(1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18),
    *(20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23),
)


class Form(NamedTuple):
    """One form of number: the name of the flaw, the word to show in its place, what it looks like
    (for Python's `re`), and whether a text that looks like one is one."""

    flaw: str
    word: str
    pattern: str
    check: Callable[[str], bool]

    @property
    def loose(self) -> str:
        """The pattern for an engine without look-arounds; it finds more."""
        return without_look_arounds(self.pattern)

    def candidates(self, text: str) -> Iterator[str]:
        return (match.group() for match in _compiled(self.pattern).finditer(text))

    def masked(self, text: str) -> str:
        """Return the text with the word in the place of each such number."""
        return _compiled(self.pattern).sub(
            lambda match: self.word if self.check(match.group()) else match.group(), text
        )


def is_card(text: str) -> bool:
    """Tell whether a text is the number of a payment card: a known issuer's, of the right length and
    with the right check digit (Luhn's)."""
    number = _digits(text)
    issued = any(
        len(number) in lengths and low <= int(number[: len(str(low))]) <= high
        for low, high, lengths in _ISSUERS
    )
    return issued and number not in _SAMPLES and _luhn(number)


def is_iban(text: str) -> bool:
    """Tell whether a text begins with an IBAN: of its country's length, 1 modulo 97 (ISO 13616)."""
    number = text.replace(" ", "")
    number = number[: _IBAN_LENGTHS.get(number[:2], 0)]
    if len(number) < _IBAN_LENGTHS.get(text[:2], 99) or number in _SAMPLES:
        return False
    return int("".join(str(int(sign, 36)) for sign in number[4:] + number[:4])) % 97 == 1


def is_ssn(text: str) -> bool:
    """Tell whether a text is a US social security number: there are numbers that nobody gets, but
    no check digits."""
    number = _digits(text)
    area, group, serial = number[:3], number[3:5], number[5:]
    impossible = area in ("000", "666") or area >= "900" or group == "00" or serial == "0000"
    return not impossible and number not in _SAMPLES


def is_cpf(text: str) -> bool:
    """Tell whether a text is a Brazilian tax number: it ends in two check digits."""
    number = [int(sign) for sign in _digits(text)]
    checks = [
        10 * sum(digit * (size + 1 - place) for place, digit in enumerate(number[:size])) % 11 % 10
        for size in (9, 10)
    ]
    return number[9:] == checks and len(set(number)) > 1


def is_chinese_id(text: str) -> bool:
    """Tell whether a text is a Chinese id (GB 11643): a date of birth, and a check digit by ISO 7064."""
    total = sum(int(sign) * pow(2, 17 - place, 11) for place, sign in enumerate(text[:17]))
    born = "01" <= text[10:12] <= "12" and "01" <= text[12:14] <= "31"
    return born and "10X98765432"[total % 11] == text[17].upper()


def is_codice_fiscale(text: str) -> bool:
    """Tell whether a text is an Italian tax code: its last letter checks the others."""
    values = [int(sign) if sign.isdigit() else ord(sign) - ord("A") for sign in text[:15]]
    total = sum(values[1::2]) + sum(_ODD[value] for value in values[::2])
    return chr(ord("A") + total % 26) == text[15]


def is_nir(text: str) -> bool:
    """Tell whether a text is a French social security number; Corsica's departments are 2A and 2B."""
    number = text.replace(" ", "")
    body = number[:13].replace("2A", "19").replace("2B", "18")
    return body.isdigit() and 97 - int(body) % 97 == int(number[13:])


def is_ip_address(text: str) -> bool:
    """Tell whether a text is the IPv4 address of some machine on the internet. What has small
    numbers only is a version or a section more often than an address."""
    import ipaddress

    if text in _SAMPLES or all(int(part) < 20 for part in text.split(".")):
        return False
    try:
        return ipaddress.IPv4Address(text).is_global
    except ValueError:
        return False


FORMS = (
    Form("credit_card", "[card number]", _CARD, is_card),
    Form("iban", "[IBAN]", _IBAN, is_iban),
    *(
        Form("national_id", "[national id]", pattern, check)
        for pattern, check in (
            (_SSN, is_ssn),
            (_SSN_BY_NAME, is_ssn),
            (_CPF, is_cpf),
            (_CHINESE_ID, is_chinese_id),
            (_CODICE_FISCALE, is_codice_fiscale),
            (_NIR, is_nir),
        )
    ),
    Form("ip_address", "[IP address]", _IP, is_ip_address),
)
NUMBERS = tuple(dict.fromkeys(form.flaw for form in FORMS))


def numbers(texts: "pl.Series") -> "dict[str, pl.Series]":
    """Return for each name in NUMBERS which texts hold such a number; null when that could not be
    judged."""
    import polars as pl

    suspect = contains_any(texts, number_patterns())
    suspect_texts, places = texts.filter(suspect), suspect.arg_true()
    verdicts = {}
    for flaw in NUMBERS:
        verdict = pl.Series([False] * len(suspect_texts), dtype=pl.Boolean)
        for form in (form for form in FORMS if form.flaw == flaw):
            likely = suspect_texts.str.contains(form.loose)
            verdict = verdict | judged(suspect_texts, likely, form.candidates, form.check)
        verdicts[flaw] = suspect.clone().scatter(places, verdict)
    return verdicts


@cache
def number_patterns() -> tuple[str, ...]:
    """Return patterns for whatever may be a number of any kind."""
    return tuple(form.loose for form in FORMS)


def has_phone_number(texts: "pl.Series", regions: tuple[str, ...] = ()) -> "pl.Series":
    """Return for each text whether libphonenumber finds a number; null when that could not be judged.

    A number without a country code is read as a North American one, or as one of `regions` (ISO 3166).
    """
    import phonenumbers

    def check(candidate: str, region: str = "US") -> bool:
        return any(True for _ in phonenumbers.PhoneNumberMatcher(candidate, region))

    found = judged(texts, texts.str.contains(PHONE), phone_candidates, check)
    if not regions:
        return found
    there = texts.str.contains(without_look_arounds(NATIONAL))
    candidates = partial(phone_candidates, pattern=NATIONAL)
    for region in regions:
        found = found | judged(texts, there, candidates, partial(check, region=region))
    return found


def phone_candidates(text: str, pattern: str = PHONE) -> Iterator[str]:
    """Yield what looks like a phone number, with what stands next to it and may belong to it."""
    for match in _compiled(pattern).finditer(text):
        start, end = match.span()
        first, last = max(0, start - _AROUND), min(len(text), end + _AROUND)
        while start > first and text[start - 1] in _DIALLED:
            start -= 1
        while end < last and text[end] in _DIALLED:
            end += 1
        # One character more on each side: a letter there says that it is no number.
        yield text[max(0, start - 1) : end + 1]


@cache
def _compiled(pattern: str) -> "re.Pattern[str]":
    import re

    return re.compile(pattern)


def _digits(text: str) -> str:
    return "".join(sign for sign in text if sign.isdecimal())


def _luhn(number: str) -> bool:
    doubled = (sum(divmod(2 * int(sign), 10)) for sign in number[-2::-2])
    return (sum(doubled) + sum(map(int, number[-1::-2]))) % 10 == 0
