# ruff: noqa: E501  (a pattern that is broken into lines is harder to read than a long line)
"""Secrets without a form of their own, known by the name that stands before them: `DB_PASSWORD=...`,
`"api_key": "..."`, `Authorization: Bearer ...`, `curl -u user:...`.

A pattern finds assignments; whether what is assigned looks drawn rather than written decides. Stubs
(`your_password_here`, `<TOKEN>`, `changeme`) and code (`os.environ["KEY"]`, `request.token`) are none.
"""

import re

_NAME = (
    r"(?:pass(?:word|wd|phrase)?|pwd|secret|token|api[_ -]?key|apikey|access[_ -]?key|account[_ -]?key|private[_ -]?key"
    r"|auth[_ -]?key|signing[_ -]?key|encryption[_ -]?key|client[_ -]?secret|secret[_ -]?key(?:[_ -]?base)?|app[_ -]?key"
    r"|license[_ -]?key|credentials?|passwort|contraseña|mot de passe|senha|пароль|密码)"
)
_VALUE = r"""[^\s"'`,;<>(){}\[\]]{8,200}"""
ASSIGNED = (
    rf"""(?i)(?:{_NAME}[A-Za-z0-9_.-]{{0,20}}["'`*]{{0,3}}(?: is|\s?[:=]{{1,2}}>?|\s=>|：)\s?["'`*]{{0,3}}{_VALUE}["'`]?"""
    rf"""|bearer\s+["']?[A-Za-z0-9._~+/-]{{20,}}=*|basic\s+[A-Za-z0-9+/]{{12,}}={{0,2}}"""
    rf"""|\s-u\s?["']?[A-Za-z0-9_.@-]+:{_VALUE}|;\s?(?:password|pwd)\s?=\s?[^;"'\s]{{8,}}"""
    rf"""|\s--(?:password|token|api-key|secret)[ =]["']?{_VALUE})"""
)
# One of these is in whatever ASSIGNED matches.
WORDS = (
    *(
        "pass",
        "pwd",
        "secret",
        "token",
        "key",
        "credential",
        "contraseña",
        "senha",
        "пароль",
        "密码",
    ),
    *("bearer ", "basic ", " -u "),
)
_STUBS = re.compile(
    r"pass|p[a@4]ss?w|word|secret|token|example|sample|change|your|\bmy|enter|insert|here|placeholder|dummy|fake|demo|test|xxx"
    r"|\*\*\*|\.\.\.|abc|qwert|letmein|admin|user|hunter|foo|bar|123456|98765|correct|horse|value|string|process\.|environ"
    r"|config|getenv|self\.|this\.|request|response|https?:|://|\.com|\.json|\.get|null|none|true|false|undefined|key|hash"
    r"|data\.|\\n|\$\{|\{\{|%s|ffff|0000|=="
)
_RUN = re.compile(r"(.)\1{4}")


def is_assigned(candidate: str) -> bool:
    """Tell whether what is assigned in a match of ASSIGNED looks like a secret."""
    lower = candidate.lower()
    value = re.split(r"""[\s:=>"'`*：]+""", candidate.rstrip("\"'`.:"))[-1]
    if re.match(r"\s?-u\s", lower):
        value = candidate.rsplit(":", 1)[-1]
    if lower.lstrip().startswith("basic"):
        return _is_basic(value if "=" not in candidate[-2:] else candidate.split()[-1])
    named_password = re.search(r"pass|pwd|senha|contrase|пароль|密码|\s-u\s", lower) is not None
    return looks_drawn(value, 8 if named_password else 16)


def looks_drawn(value: str, least: int) -> bool:
    """Tell whether a value of at least `least` characters was drawn by lot, or by a careful person:
    letters of both cases and digits, or letters, digits and signs, and no word that stubs have."""
    if len(value) < least or _STUBS.search(value.lower()) or _RUN.search(value):
        return False
    digits = sum(sign.isdigit() for sign in value)
    lower = sum(sign.islower() for sign in value)
    upper = sum(sign.isupper() for sign in value)
    signs = len(value) - digits - lower - upper
    if len(set(value)) < min(len(value), 16) * 0.5 or value.count(".") > 2:
        return False
    if least >= 16:
        hexadecimal = re.fullmatch(r"[0-9a-fA-F-]{32,}", value) is not None
        return digits >= 3 and (hexadecimal or (lower >= 3 and (upper >= 3 or len(value) >= 30)))
    return digits >= 1 and lower >= 1 and (upper >= 1 or signs >= 1) and value[-1] not in ")."


def _is_basic(value: str) -> bool:
    """Tell whether a value is a user's name and a password in base64."""
    import base64
    import binascii

    try:
        text = base64.b64decode(value + "=" * (-len(value) % 4), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return False
    user, colon, password = text.partition(":")
    return bool(user and colon) and text.isprintable() and looks_drawn(password, 8)
