"""The cost of judging a message is linear in its length, and what cannot be judged says so."""

import base64

import phonenumbers
import polars as pl
import pytest

from expectations.data import candidates, credentials, personal
from expectations.data.messages import Rules, judge_messages
from retune.recipe import Validation

SIZE = 120_000
# What makes a backtracking engine, or a library that is asked again and again, slow.
HOSTILE = (
    *("a", "a.", "@", "a@", "a@b.", "1", "1 ", "+1", "+1 (", "123-456-", "(123) 456-"),
    *("//", "//x/:", "://", "://a:b", "eyJ", "eyJa.b ", "sk-", "aws", "aws key '", "AC", "glpat-"),
    *("```", "`a", "Ã", "â€", "é", "4539 ", "DE12 ", "pass=", "-key:::", "xoxb-1-", "1.2.3.", " "),
    *("BEGIN RSA PRIVATE ", "SG.", "209-88-", "token:", "https://hooks.slack.com/services/T"),
)
KEY = "AKIA" + "QWERTYUIOPASDFGH"


def repeated(part: str, size: int = SIZE) -> str:
    return (part * (size // len(part) + 1))[:size]


def judged(*texts: str) -> pl.DataFrame:
    messages = pl.DataFrame(
        {"row": range(len(texts)), "place": 0, "role": "user", "content": texts}
    )
    return judge_messages(messages, Rules(Validation()))


@pytest.fixture
def handed(monkeypatch) -> list[int]:
    """The characters of every text that a library's or a check's Python is given."""
    seen: list[int] = []

    def counting(function):
        def counted(*arguments, **others):
            seen.append(max(len(text) for text in arguments if isinstance(text, str)))
            return function(*arguments, **others)

        return counted

    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class

    kinds = {*get_mapping_from_secret_type_to_class().values()}
    for kind in kinds:
        monkeypatch.setattr(kind, "analyze_string", counting(kind.analyze_string))
    matcher = phonenumbers.PhoneNumberMatcher
    monkeypatch.setattr(matcher, "__init__", counting(matcher.__init__))
    return seen


@pytest.mark.parametrize("part", HOSTILE)
def test_no_library_sees_more_than_the_message_a_few_times(part, handed):
    judged(repeated(part))
    assert sum(handed) <= 4 * SIZE
    assert len(handed) <= 4 * candidates.MOST


def test_a_suspect_word_does_not_make_the_detectors_read_the_whole_message(handed):
    """One word that looks like a secret used to hand all of it to twenty detectors."""
    text = "eyJhbGci.eyJzdWIi " + repeated("lorem ipsum dolor ", 200_000) + " +1 000 000 0000"
    assert not judged(text).select("secret", "phone_number", "unjudged").row(0)[0]
    assert 0 < sum(handed) < 1000


@pytest.mark.parametrize("before", [0, 1, 1023, 1024, 4096, 65_535, 199_990, 300_000])
def test_a_secret_is_found_wherever_it_stands(before):
    table = judged(repeated("lorem ", before) + f" {KEY} " + repeated("ipsum ", 5000))
    assert table["secret"].to_list() == [True]
    assert table["unjudged"].to_list() == [False]


def test_a_number_is_found_wherever_it_stands():
    numbers = "+44 20 7946 0958, 4539 1488 0343 6467, DE12 5001 0517 0648 4898 90, 209-61-2391"
    table = judged(*(repeated("lorem ", before) + f" {numbers}." for before in (0, 1023, 250_000)))
    for flaw in ("phone_number", "credit_card", "iban", "national_id"):
        assert table[flaw].to_list() == [True] * 3, flaw


def token(payload: str) -> str:
    parts = ('{"alg":"none"}', payload)
    return ".".join(base64.urlsafe_b64encode(part.encode()).decode().rstrip("=") for part in parts)


@pytest.mark.parametrize(
    "text",
    [
        " ".join(f"eyJ{number}.{number}" for number in range(candidates.MOST + 1)),
        " ".join(f"+1 000 000 {number:05}" for number in range(candidates.MOST + 1)),
        token('{"a":' * 5000 + "1" + "}" * 5000),
        token('{"a":"' + "x" * candidates.LONGEST + '"'),
    ],
    ids=["many tokens", "many numbers", "nested JSON", "a long token"],
)
def test_what_cannot_be_judged_is_unjudged(text):
    table = judged(text, "a plain text")
    assert table["unjudged"].to_list() == [True, False]
    assert not table["secret"].any()


def test_a_secret_among_too_many_suspects_is_still_one():
    many = " ".join(f"eyJ{number}.{number}" for number in range(candidates.MOST + 1))
    table = judged(f"{many} {KEY}")
    assert table["secret"].to_list() == [True]


def test_the_exact_patterns_are_the_detectors_own():
    """Where a look-around became a character of context, nothing else may have changed."""
    found = {True: 0, False: 0}
    tokens = [
        *("glp" + "at-" + "a1" * n for n in (9, 10, 25, 26)),
        *(f"glimt-{'b' * n}" for n in (24, 25, 26)),
        *(f'api_key="{"aB3_" * 11}{end}' for end in ('"', "x", "")),
        *(f"{start}ibm_api_key={'c' * 44}" for start in ("", "x", " ", "_")),
        *(f"cos_secret_access_key: {'d' * n}" for n in (47, 48, 49)),
        *(f"{start}cloudant_password = {'0f' * 32}" for start in ("", "[", "\n", "é")),
        *("://user:hunter22@", "://user@", f"AC{'0' * 32}", KEY, KEY[:-1], f"{'e' * 32}-us12"),
    ]
    texts = [before + text + after for text in tokens for before in ("", "é", ".", "a", " ")
             for after in ("", "x", "-", " ", "\n", "é")]  # fmt: skip
    series = pl.Series(texts)
    for detector in credentials.detectors():
        if type(detector.judge).__name__ == "JwtTokenDetector":  # it looks into what was matched
            continue
        by_us = series.str.contains(detector.exact)
        owns = [p for p in detector.judge.denylist if _is_of(detector.loose, p.pattern)]
        for text, verdict in zip(texts, by_us, strict=True):
            assert verdict == any(own.search(text) for own in owns), (detector.exact, text)
            found[verdict] += 1
    assert min(found.values()) > 100, found


def _is_of(loose: str, pattern: str) -> bool:
    return loose.partition(":")[2][:-1] == candidates.without_look_arounds(pattern)


@pytest.mark.parametrize("pattern", [*personal.number_patterns(), *credentials.secret_patterns()])
def test_a_first_pattern_has_no_look_arounds(pattern):
    assert "(?=" not in pattern
    assert "(?!" not in pattern
    assert "(?<" not in pattern
