"""Masking: what makes a text safe to show in a log, a report or on other people's screens.

Whatever leaves the gate as text goes through `masked` first and is cut to length afterwards: a
secret that was cut is no longer known for one. Masking hides too much rather than too little; what
is a flaw is decided elsewhere. Every pattern is applied by itself: its time is linear in the text.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from expectations.data.addresses import ADDRESS, BIRTHDAY
from expectations.data.candidates import contains_any
from expectations.data.credentials import MORE_SECRETS, detectors, may_hold_key
from expectations.data.personal import EMAIL, FORMS, PHONE, number_patterns

if TYPE_CHECKING:
    import polars as pl

SECRET = "[secret]"
_FEW = 50  # short texts, for which polars' patterns are not worth being built
LONGEST_QUOTED = 2000  # characters of a single text that is to be shown in an error

_MARKS = r"[*`~\\\u200B-\u200D\u2060\u00AD]{0,4}"  # Markdown, or what nobody sees
_TAIL = rf"(?:{_MARKS}[A-Za-z0-9+/_=.%~-])*"  # the rest of a token, also if marks interrupt it
_KEY = r"PRIVATE KEY(?: BLOCK)?"
# A private key to its end, or the text's (\z) if there is none; one whose beginning is missing.
_BLOCKS = (
    rf"(?s:-{{0,5}} ?BEGIN [A-Z0-9 ]{{0,30}}{_KEY}.*?(?:END [A-Z0-9 ]{{0,30}}{_KEY}-{{0,5}}|\z))",
    rf"[A-Za-z0-9+/=\s\\]{{16,}}-{{0,5}} ?END [A-Z0-9 ]{{0,30}}{_KEY}-{{0,5}}",
    r"(?s:PuTTY-User-Key-File-\d.*?(?:Private-MAC: *[0-9a-f]*|\z))",
)
# How tokens of known makers begin; a few characters more are enough, since texts may be cut off.
_BEGUN = (
    rf"sk-{_MARKS}(?:ant|proj|svcacct|admin|or|lf)-",
    r"\bsk-[A-Za-z0-9_-]{8}",
    r"\b(?:sk|rk|pk)_(?:live|test)_",
    r"\bwhsec_|\bdop_v1_|\bshp(?:at|ca|pa|ss)_|\blin_api_|github_pat_|\bpypi-Ag|GOCSPX-|\bya29\.",
    r"\bgh[pousr]_[A-Za-z0-9]{4}",
    r"\bgl(?:pat|dt|ft|soat|rt|cbt|imt|ptt|agent|oas|ffct)-[A-Za-z0-9_]{4}",
    r"\bxox[a-z]-|\bxapp-|\bsq0[a-z]{3}-",
    r"hooks\.slack\.com/(?:services|workflows)/",
    r"\bhf_[A-Za-z0-9]{8}|\bnpm_[A-Za-z0-9]{8}",
    r"AIza[A-Za-z0-9_-]{4}|eyJ[A-Za-z0-9_-]{4}|\bSG\.[A-Za-z0-9_-]{8}",
    rf"\b(?:A3T[A-Z0-9]|ABIA|ACCA|AKIA|ASIA){_MARKS}[0-9A-Z]{{4}}",
)
_MORE = r"(?:[_-][A-Za-z0-9_-]{0,24}|[A-Z0-9][A-Za-z0-9_]{0,24})?"  # SECRET_KEY_BASE, tokenValue
_SEPARATOR = _MORE + r"""[*`"'\\ \t)\]]{0,6}(?:[:=]{1,2}>?|\bis\b)[*`"'\\ \t]{0,6}"""
_PASSWORD = (
    r"(?i:pass(?:word|wd|phrase|code)?|\bpwd|_pw|mot de passe|passwort|contraseña)s?" + _SEPARATOR
)
_KEY_NAME = (
    r"(?i:secret|token|credential|api[_ -]?key|(?:access|account|private|shared|signing|encryption|"
    r"client|master|auth)[_ -]?key|\bkey|\bsig|signature)s?" + _SEPARATOR
)
_OPTION = r"\s--?(?:password|pass|token|secret|api-key|user)[ =]"
# What stands after the name of a secret: the rest of the line after a password's, else one word.
_NAMED = (
    rf"({_PASSWORD})[^\n]+",
    rf"""({_KEY_NAME})[^\s"'`,;<>()]{{6,}}""",
    r"""((?i:authorization|cookie)["'\\]{0,2}\s*:\s*)[^\n]+""",
    r"(\b(?i:bearer) {1,3})[A-Za-z0-9+/._~=-]{16,}",
    rf"({_OPTION})\S{{4,}}",
    r"(\s-u ?)[^\s:]+:\S+",
)
# The user and the password of a URL; a password may hold @ and /.
_IN_URLS = (
    r"""([A-Za-z][A-Za-z0-9+.-]{0,20}://)[^\s:/?#@"'<>]*:[^\s"'<>]+@""",
    r"""([A-Za-z][A-Za-z0-9+.-]{0,20}://)[^\s/?#"'<>]+@""",
)
_DOUBTFUL = (  # what any of these begins with
    *("PRIVATE KEY|PuTTY-User-Key", *_BEGUN, r"://[^\s:/]*:[^\s]*@|://[^\s/]+@"),
    *(_PASSWORD, _KEY_NAME, _OPTION, r"(?i:authorization|cookie|bearer)|\s-u "),
)
_RUN = r"[A-Za-z0-9+/_=-]{20,}"  # as long as no word, or several joined ones


def masked(texts: "pl.Series") -> "pl.Series":
    """Return texts with a word in the place of every secret and of what belongs to a person."""
    import polars as pl

    different = texts.unique().drop_nulls()  # roles, sources and problems are often the same
    if len(different) <= _FEW and (different.str.len_chars() <= LONGEST_QUOTED).all():
        safe = pl.Series([mask(text) for text in different], dtype=pl.String)
        return texts.replace_strict(different, safe, default=None, return_dtype=pl.String)
    doubtful = may_hold_key(different) | contains_any(different, _DOUBTFUL)
    safe = _changed(different, doubtful, _without_secrets)
    personal = contains_any(safe, (*dict(_PERSONAL), _RUN, *number_patterns()))
    safe = _changed(safe, personal, _without_personal)
    return texts.replace_strict(different, safe, default=None, return_dtype=pl.String)


def masked_fields(
    rows: Sequence[Mapping[str, Any]], names: Collection[str]
) -> list[dict[str, Any]]:
    """Return rows with the texts of the fields `names` masked; what is no text stays as it is."""
    import polars as pl

    texts = list(
        dict.fromkeys(row[name] for row in rows for name in names if isinstance(row.get(name), str))
    )
    safe = dict(zip(texts, masked(pl.Series(texts, dtype=pl.String)).to_list(), strict=True))
    return [
        {**row, **{name: safe[row[name]] for name in names if isinstance(row.get(name), str)}}
        for row in rows
    ]


def mask(text: str) -> str:
    """Return one short text masked, such as a value to be quoted in an error; of a longer one, the
    beginning. The same patterns as `masked`, by Python's engine: a column of one text is slow."""
    text = text[:LONGEST_QUOTED]
    for pattern, word in _secrets():
        text = _compiled(pattern).sub(word.replace("${1}", r"\g<1>"), text)
    text = _without_numbers(text)
    for pattern, word in _PERSONAL:
        text = _compiled(pattern).sub(word, text)
    return _without_runs(text)


_PERSONAL = (
    (EMAIL, "[e-mail]"),
    (PHONE, "[phone number]"),
    (BIRTHDAY, "[birthday]"),
    (ADDRESS, "[address]"),
)


@cache
def _secrets() -> tuple[tuple[str, str], ...]:
    """Return patterns of secrets, and what stands in their place."""
    replacement = f"${{1}}{SECRET}"
    patterns = (*_BEGUN, MORE_SECRETS, *(detector.loose for detector in detectors()))
    return (
        *((pattern, SECRET) for pattern in _BLOCKS),
        *((pattern, f"{replacement}@") for pattern in _IN_URLS),
        *((f"(?:{pattern}){_TAIL}", SECRET) for pattern in patterns),
        *((pattern, replacement) for pattern in _NAMED),
    )


@cache
def _compiled(pattern: str) -> "re.Pattern[str]":
    return re.compile(pattern.replace(r"\z", r"\Z").replace(r"(?-u:\b)", r"\b"))


def _changed(
    texts: "pl.Series", doubtful: "pl.Series", change: "Callable[[pl.Series], pl.Series]"
) -> "pl.Series":
    places = doubtful.arg_true()
    return texts.clone().scatter(places, change(texts.gather(places))) if len(places) else texts


def _without_secrets(texts: "pl.Series") -> "pl.Series":
    for pattern, word in _secrets():
        texts = texts.str.replace_all(pattern, word)
    return texts


def _without_personal(texts: "pl.Series") -> "pl.Series":
    import polars as pl

    texts = pl.Series([_without_numbers(text) for text in texts], dtype=pl.String)
    for pattern, word in _PERSONAL:
        texts = texts.str.replace_all(pattern, word)
    return pl.Series([_without_runs(text) for text in texts], dtype=pl.String)


def _without_numbers(text: str) -> str:
    for form in FORMS:
        text = form.masked(text)
    return text


def _without_runs(text: str) -> str:
    """Mask what looks drawn by lot: long runs of small and capital letters and digits, or of hex."""
    return _compiled(_RUN).sub(
        lambda match: SECRET if _is_drawn(match.group()) else match.group(), text
    )


def _is_drawn(run: str) -> bool:
    digits = sum(map(run.count, "0123456789"))
    if digits < 2:  # most runs are joined words, and to count letters takes its time
        return False
    lower = sum(sign.islower() for sign in run)
    upper = sum(sign.isupper() for sign in run)
    if lower >= 3 and upper >= 3 and digits >= 2:
        return True
    return digits >= 4 and len(run) >= 24 and run.isalnum() and lower + upper >= 4
