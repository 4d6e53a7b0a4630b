"""Secrets of every kind are found and masked; what only looks like one is neither."""

import base64
from random import Random
from string import ascii_letters, ascii_lowercase, ascii_uppercase, digits

import polars as pl
import pytest

from expectations.data.credentials import has_secret
from expectations.data.masking import masked

WORD, HEX, LOW = ascii_letters + digits, "0123456789abcdef", ascii_lowercase + digits


def drawn(alphabet: str, size: int) -> str:
    """Characters drawn by lot, the same every time; short ones hold a bit of everything."""
    return "".join(Random(f"{alphabet}{size}").choices(alphabet, k=size))


def w(size: int) -> str:
    return drawn(WORD, size)


def h(size: int) -> str:
    return drawn(HEX, size)


BASIC = base64.b64encode(b"anna:Xk4!pw9Zr2").decode()
# Made up; in two parts, so that no scanner takes this file for a leak.
KINDS = {
    "aws key": "AK" + "IA" + drawn(ascii_uppercase + "234567", 16),
    "aws secret": "aws_secret_access_key = " + w(40),
    "google api": "AI" + "za" + w(35),
    "google oauth": "GOC" + "SPX-" + w(28),
    "google service account": "-----BEGIN PRIVATE" + " KEY-----\\n" + w(60),
    "azure storage": "AccountName=acme;Account" + "Key=" + w(86) + "==",
    "azure sas": "https://acme.blob.core.windows.net/a?sv=2022&si" + "g=" + w(43) + "%3D",
    "azure client secret": f"{w(3)}8" + "Q~" + w(32),
    "github classic": "gh" + "p_" + w(36),
    "github fine-grained": "github_" + "pat_" + w(82),
    "gitlab": "glp" + "at-" + w(20),
    "slack bot": "xo" + "xb-" + f"{drawn(digits, 12)}-{drawn(digits, 12)}-{w(24)}",
    "slack hook": "https://hooks.slack" + f".com/services/T{w(8).upper()}/B{w(8).upper()}/{w(24)}",
    "stripe": "sk_" + "live_" + w(24),
    "stripe webhook": "whs" + "ec_" + w(32),
    "twilio": "S" + "K" + h(32),
    "sendgrid": "S" + "G." + w(22) + "." + w(43),
    "mailgun": "ke" + "y-" + h(32),
    "npm": "np" + "m_" + w(36),
    "pypi": "py" + "pi-AgEIcHlwaS5vcmc" + w(70),
    "docker hub": "dckr_" + "pat_" + w(27),
    "hugging face": "h" + "f_" + drawn(ascii_letters, 34),
    "openai": "s" + "k-" + w(20) + "T3Blbk" + "FJ" + w(20),
    "openai project": "sk-" + "proj-" + w(48),
    "anthropic": "sk-" + "ant-api03-" + w(93),
    "telegram": drawn("123456789", 10) + ":A" + "A" + w(33),
    "discord": "M" + w(23) + "." + w(6) + "." + w(27),
    "discord hook": "https://discord" + f".com/api/webhooks/{drawn('123456789', 18)}/{w(68)}",
    "shopify": "shp" + "at_" + h(32),
    "square": "sq0" + "atp-" + w(22),
    "digitalocean": "dop_" + "v1_" + h(64),
    "heroku": "HRK" + "U-" + w(40),
    "databricks": "da" + "pi" + h(32),
    "linear": "lin_" + "api_" + w(40),
    "notion": "nt" + "n_" + drawn(digits, 11) + w(35),
    "airtable": "pa" + "t" + w(14) + "." + h(64),
    "figma": "fig" + "d_" + w(40),
    "postman": "PM" + "AK-" + h(24) + "-" + h(34),
    "new relic": "NR" + "AK-" + drawn(ascii_uppercase + digits, 27),
    "datadog by name": "DD_API_KEY=" + h(32),
    "sentry": f"https://{h(32)}@o4501.ingest" + ".sentry.io/12",
    "jwt": "ey" + "JhbGciOiJIUzI1NiJ9.ey" + "JzdWIiOiIxIn0." + w(43),
    "pem": "-----BEGIN RSA PRIVATE" + " KEY-----\n" + w(64),
    "putty": "PuTTY-User-Key" + "-File-2: ssh-rsa\nPrivate-Lines: 1\n" + w(64),
    "env line": "DB_PASSWORD=" + "Kx7!vQ2m#Lt9",
    "config": "password: " + "Kx7vQ2mLt9",
    "json": '{"client_secret": "' + w(32) + '"}',
    "url": "postgres://anna:" + w(14) + "@db.internal:5432/shop",
    "bearer": "Authorization: Bearer " + w(40),
    "basic": f"Authorization: Basic {BASIC}",
    "connection string": "Server=db;User Id=sa;Password=" + "Kx7!vQ2m#Lt9;Encrypt=yes",
    "groq": "gs" + "k_" + w(52),
    "openrouter": "sk-" + "or-v1-" + h(64),
}
ORDINARY = (
    "password: your_password_here",
    "api_key: <YOUR_API_KEY>",
    "token = os.environ['API_KEY']",
    "DB_PASSWORD=changeme",
    "password = input('Password: ')",
    'const token = jwt.sign({ id: user.id }, process.env.JWT_SECRET, { expiresIn: "1h" });',
    "sk-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    "secret_key: 'my-super-secret-key'",
    "Authorization: Bearer <token>",
    "Authorization: Bearer YOUR_ACCESS_TOKEN_GOES_HERE_1",
    "Basic knowledge of chemistry is needed; basic understanding12 helps.",
    "commit 3f2a9c1e7b5d80463f2a9c1e7b5d80463f2a9c1e",
    "550e8400-e29b-41d4-a716-446655440000",
    "sha256:9f3c1a7e5b2d80469f3c1a7e5b2d80469f3c1a7e5b2d80469f3c1a7e5b2d8046",
    "aGVsbG8gd29ybGQ=",
    "The password is important; the token: a word of a text.",
    "tokens = tokenizer.encode(text, add_special_tokens=False)",
    "primary_key=True, foreign_key: customers.customer_id",
    "The key: understanding2 how it works",
    "pattern pat-a-cake, desk-sharing, sk-learn, key-value, SKU SK123456",
    "postgres://user:password@localhost/db",
    "Lorem ipsum dolor sit amet, consectetur adipiscing elit",
    "password: P@ssw0rd!",
    "curl -u user:password https://a.example",
    "access_key: AbstractFactoryBean2",
)


def test_every_kind_is_found_and_masked():
    texts = pl.Series([f"Please use\n{secret}\nand tell nobody." for secret in KINDS.values()])
    missed = [kind for kind, found in zip(KINDS, has_secret(texts), strict=True) if not found]
    assert len(KINDS) >= 50
    assert not missed
    for kind, secret, shown in zip(KINDS, KINDS.values(), masked(texts), strict=True):
        part = {"sentry": secret[8:40], "url": w(14)}.get(kind, secret[-8:])
        assert part not in shown, kind


@pytest.mark.parametrize("text", ORDINARY)
def test_what_only_looks_like_one_is_none(text):
    assert has_secret(pl.Series([text])).to_list() == [False]


def token_of(depth):
    """A JSON Web Token whose header is nested."""
    text = '{"a":' * depth + '"b"' + "}" * depth
    head = base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")
    return f"{head}.{head}.c2ln"


@pytest.mark.parametrize(("depth", "is_secret"), [(1, True), (400, True), (600, None), (900, None)])
def test_how_deep_a_token_is_judged_does_not_depend_on_the_interpreter(depth, is_secret):
    """600 and 900 are read by every Python's JSON, some read 2,000 as well."""
    assert has_secret(pl.Series([f"It is {token_of(depth)} here."])).to_list() == [is_secret]
