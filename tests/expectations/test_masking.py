"""Nothing of a secret is left in a masked text, of whatever kind it is and wherever it stands."""

import polars as pl
import pytest

from expectations.data.excerpts import LENGTH, excerpts
from expectations.data.features import with_scores
from expectations.data.masking import _FEW, mask, masked
from expectations.data.messages import Rules
from retune.recipe import Validation
from tests.expectations.test_features import A, table_of, write

# Drawn by lot for these tests; written in parts, so that no scanner takes this file for a leak.
BODY = "q7RzK2mXw9TbN4vLc8YdH3sJf6GpA1eUoZ5iQxB0"
HEX = "9f3c1a7e5b2d8046" * 4
LINES = "\n".join((BODY + BODY[::-1])[:64] for _ in range(4))
JWT = ".".join(("eyJ" + "hbGciOiJIUzI1NiJ9", "eyJ" + "zdWIiOiJhbm5hIn0", BODY + "w3"))
PEM = f"-----BEGIN OPENSSH PRIVATE{' '}KEY-----\n{LINES}\n"
WORD = "correcthorsebattery"
CANARIES = {
    "anthropic": (f"sk-ant-api03-{BODY}{BODY}AA", BODY),
    "openai": (f"sk-{BODY[:20]}T3Blbk" + f"FJ{BODY[20:]}", BODY),
    "openai_project": (f"sk-proj-{BODY}_{BODY}", BODY),
    "hugging_face": ("h" + f"f_{BODY[:34]}", BODY[:34]),
    "github": ("gh" + f"p_{BODY[:36]}", BODY[:36]),
    "github_fine_grained": ("github_" + f"pat_{BODY[:22]}_{BODY}", BODY),
    "gitlab": ("glp" + f"at-{BODY[:20]}", BODY[:20]),
    "slack": ("xo" + f"xb-123456789012-123456789012-{BODY[:24]}", BODY[:24]),
    "slack_hook": (f"https://hooks.slack.com/services/T0AB1CD2E/B0AB1CD2E/{BODY[:24]}", BODY[:24]),
    "stripe": ("sk_" + f"live_{BODY[:24]}", BODY[:24]),
    "google": ("AI" + f"za{BODY[:35]}", BODY[:35]),
    "aws_pair": (
        f"AWS_ACCESS_KEY_ID=AK{'IA'}QWERTYUIOPASDFGH\nAWS_SECRET_ACCESS_KEY={BODY}",
        f"QWERTYUIOPASDFGH {BODY}",
    ),
    "jwt": (JWT, JWT),
    "jwt_cut_off": (JWT[:60], JWT[:60]),
    "private_key": (PEM + f"-----END OPENSSH PRIVATE{' '}KEY-----", LINES),
    "private_key_without_end": (PEM, LINES),
    "private_key_without_beginning": (f"{LINES}\n-----END RSA PRIVATE{' '}KEY-----", LINES),
    "private_key_in_json": (repr(PEM), LINES),
    "putty_key": (f"PuTTY-User-Key-File-3: ssh-rsa\nPrivate-Lines: 4\n{LINES}", LINES),
    "url": (f"postgres://admin:{WORD}@db.acme.org/shop", WORD),
    "url_with_odd_password": (f"postgres://admin:{WORD}/{WORD}@{WORD}@db.acme.org/shop", WORD),
    "url_with_token": (f"git clone https://{BODY}@git.acme.org/a.git", BODY),
    "url_parameter": (f"https://acme.org/?a=1&api_key={WORD}&sig={BODY}", f"{WORD} {BODY}"),
    "bearer": (f"Authorization: Bearer {BODY}", BODY),
    "bearer_in_curl": (f"curl -H 'Authorization: Bearer {WORD}' https://acme.org", WORD),
    "basic_in_curl": (f"curl -u anna:{WORD} https://acme.org", WORD),
    "connection_string": (f"Server=db;User Id=sa;Password={WORD};Encrypt=yes", WORD),
    "azure": (f"AccountName=acme;AccountKey={BODY}{BODY}xy==;Suffix=net", BODY),
    "env": (f"DEBUG=1\nDB_PASSWORD={WORD} {WORD}\nSECRET_KEY='{WORD}'", WORD),
    "yaml": (f"db:\n  password: {WORD}\n  token: {WORD}", WORD),
    "json": (f'{{"user": "anna", "password": "{WORD}"}}', WORD),
    "json_in_json": (f'"{{\\"api_key\\": \\"{WORD}\\"}}"', WORD),
    "markdown": (f"**Password:** `{WORD}`", WORD),
    "prose": (f"my password is {WORD}", WORD),
    "argument": (f"mysql --password {WORD} shop", WORD),
    "split_by_markdown": (f"sk-ant-**api03**-{BODY[:18]}**{BODY[18:30]}**`{BODY[30:]}`", BODY),
    "split_by_zero_width": (f"sk-ant-\u200bapi03-{BODY[:9]}\u200b{BODY[9:]}", BODY),
    "base64_alone": (BODY + BODY[::-1] + "==", BODY),
    "hex_alone": (HEX, HEX),
    "email": ("anna.lindqvist@nordhaus-werk.de", "anna.lindqvist nordhaus-werk"),
    "phone": ("+44 20 7946 0958", "7946 0958"),
    "card": ("4539 1983 4441 7476", "1983 4441"),
    "iban": ("DE12 5001 0517 0648 4898 90", "5001 0517 0648"),
    "ssn": ("209-88-9636", "209-88-9636"),
    "ip_address": ("81.28.158.180", "81.28.158.180"),
    "birthday": ("I am Anna Lindqvist, born on 20 May 1984", "Lindqvist 1984"),
    "british_address": ("12 Mill Lane, Leeds LS9 4AB", "12 Mill Leeds LS9 4AB"),
    "american_address": ("4711 Birch Hollow Road, Dover, DE 19901", "4711 Birch Hollow 19901"),
    "german_address": ("Lindenallee 12, 20095 Hamburg", "Lindenallee 20095"),
    "french_address": ("12 rue des Lilas, 75011 Paris", "Lilas 75011"),
    "spanish_address": ("Calle de Alcalá, 12, 28014 Madrid", "Alcalá 28014"),
}


def parts(secret: str, size: int = 8) -> set[str]:
    """Every part of a secret's words that is as long as one could recognise it by."""
    return {
        word[at : at + size]
        for word in secret.split()
        for at in range(max(1, len(word) - size + 1))
    }


def leaks(secret: str, text: str) -> list[str]:
    return sorted(part for part in parts(secret) if part in text)


@pytest.mark.parametrize("kind", CANARIES)
def test_nothing_of_a_secret_is_left(kind):
    text, secret = CANARIES[kind]
    before, after = "Dear Ms Lovelace, please use\n", "\nand write to me when it is done."
    assert leaks(secret, text)
    for whole in (text, before + text, before + text + after, f"({text})", f"«{text}»"):
        column = masked(pl.Series([whole])).item()
        assert not leaks(secret, column)
        assert not leaks(secret, mask(whole))
        assert masked(pl.Series([column])).item() == column
    assert before in masked(pl.Series([before + text])).item() or kind.endswith("beginning")


def test_nothing_of_a_secret_is_left_in_a_long_column():
    """Many texts are masked by another engine than few; what both leave is the same."""
    words = [f"Nothing to see in row {number} of these." for number in range(_FEW + 1)]
    texts = [f"Please use\n{text}\nand write to me." for text, _ in CANARIES.values()]
    shown = masked(pl.Series(words + texts)).to_list()[len(words) :]
    left = {
        kind: found
        for (kind, (_, secret)), text in zip(CANARIES.items(), shown, strict=True)
        if (found := leaks(secret, text))
    }
    assert left == {}
    assert shown == [mask(text) for text in texts]


@pytest.mark.parametrize("kind", ["anthropic", "private_key", "jwt", "aws_pair", "url"])
def test_no_excerpt_cuts_into_a_secret(kind, tmp_path):
    """An excerpt begins 40 characters before what it shows, and ends after 120."""
    text, secret = CANARIES[kind]
    rows = [[("user", "x " * (at // 2) + text + " y" * 80), A] for at in range(0, 200, 7)]
    rows += [[("user", f"{'z ' * at}\x00{' ' * (at % 30)}{text}"), A] for at in range(0, 60, 3)]
    rows += [[(f"{'w' * at} {text}", "hi"), A] for at in range(0, 130, 9)]
    rules = Rules(Validation())
    path = write(tmp_path, *rows)
    table = with_scores(table_of(path, rules), rules.config)
    shown = excerpts(pl.read_parquet(path), table, rules)["excerpt"]
    assert len(shown) >= len(rows)
    assert shown.str.len_chars().max() <= LENGTH
    assert not leaks(secret, "\n".join(shown))


@pytest.mark.parametrize(
    "text",
    [
        "The basic idea of a secret garden is that nobody finds the key.",
        "Keys and tokens are words; the tokenizer is passed to the trainer.",
        "def f(x):\n    return [tokens[i] for i in range(10)]",
        "https://docs.python.org/3/library/secrets.html#module-secrets",
        "SELECT * FROM users WHERE id = 4539; -- 3.14159265358979",
        "the answer_repeats_question and near_duplicate_similarity settings",
        "commit 3f2a, version 1.2.3.4, task-oriented, desk-sharing, risk-averse",
        "« Le café » … 密码学 и криптография",
        "",
    ],
)
def test_ordinary_text_stays(text):
    assert mask(text) == text
    assert masked(pl.Series([text])).item() == text


def test_columns_keep_their_order_and_their_nulls():
    texts = pl.Series("role", ["b", None, "key: abcdefgh1", "a", "b"])
    assert masked(texts).to_list() == ["b", None, "key: [secret]", "a", "b"]
    assert masked(texts).name == "role"
    assert masked(texts.clear()).to_list() == []
